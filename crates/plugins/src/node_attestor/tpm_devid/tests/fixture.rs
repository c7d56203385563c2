//! A software TPM as a manufacturer and an operator leave it: with an endorsement certificate, and
//! with device identities.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use steeple_hcl::Block;
use steeple_pki::{Certificate, KeyKind, PublicKey};
use steeple_plugin::{Challenger, Code, HostContext, NodeAttestor, NodeEvidence, PluginError};
use steeple_spiffe::TrustDomain;
use steeple_tpm::emulator::Emulator;
use steeple_tpm::template::KeyShape;
use steeple_tpm::verify::Public;
use steeple_tpm::wire::Writer;
use steeple_tpm::{Auth, EkKind, Handle, Tpm, Wrapped};
use tempfile::TempDir;

pub(super) const DEVID_PASSWORD: &str = "devid-pass";
pub(super) const SHA256: u16 = 0x000b;
/// Signs, was born in its TPM and stays there.
pub(super) const DEVID_ATTRIBUTES: u32 = 0x0004_0072;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Somebody who issues certificates.
pub(super) struct Authority {
    issuer: Issuer,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(ca(name), key).unwrap() }
    }

    pub(super) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::signed_by(ca(name), key, &self.issuer).unwrap() }
    }

    pub(super) fn certificate(&self) -> Certificate {
        Certificate::from_der(self.issuer.der().to_vec()).unwrap()
    }

    pub(super) fn devid(&self, key: &PublicKey) -> Certificate {
        self.issue(&params("devid-leaf"), key)
    }

    /// An endorsement certificate: without a subject, so that the alternative name is critical, and
    /// that tells of the TPM's maker.
    fn endorsement(&self, key: &PublicKey) -> Certificate {
        let mut params = params("");
        params.distinguished_name = rcgen::DistinguishedName::new();
        // directoryName: CN=swtpm
        let name = b"\x30\x14\xa4\x12\x30\x10\x31\x0e\x30\x0c\x06\x03\x55\x04\x03\x0c\x05swtpm";
        let mut alternative = CustomExtension::from_oid_content(&[2, 5, 29, 17], name.to_vec());
        alternative.set_criticality(true);
        params.custom_extensions = vec![alternative];
        self.issue(&params, key)
    }

    fn issue(&self, params: &CertificateParams, key: &PublicKey) -> Certificate {
        let issued = params.signed_by(&Subject(key), &self.issuer).unwrap();
        Certificate::from_der(issued.der().to_vec()).unwrap()
    }
}

/// A TPM's key, RSA-2048 or P-256, as rcgen wants it.
struct Subject<'a>(&'a PublicKey);

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        // The content of the BIT STRING, which ends the SubjectPublicKeyInfo.
        let header = if matches!(self.0.kind(), KeyKind::Rsa(_)) { 24 } else { 26 };
        &self.0.spki_der()[header..]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.0.kind() {
            KeyKind::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A machine with a TPM.
pub(super) struct Machine {
    pub(super) emulator: Emulator,
    folder: TempDir,
}

/// A device identity: the key that a machine's TPM wrapped, and its certificates.
pub(super) struct DevId {
    pub(super) key: Wrapped,
    pub(super) chain: Vec<Certificate>,
}

impl Machine {
    /// A machine whose maker is `maker`; none where there is no software TPM.
    pub(super) fn made_by(maker: &Authority) -> Option<Self> {
        let emulator = Emulator::start()?;
        let machine = Self { emulator, folder: tempfile::tempdir().unwrap() };
        machine.talk(|tpm| {
            let ek = tpm.ek(EkKind::Rsa2048, Auth::NONE, Auth::NONE).unwrap();
            let key = Public::parse(&ek.public).unwrap().key().unwrap();
            store(tpm, EkKind::Rsa2048.certificate_index(), maker.endorsement(&key).der());
        });
        Some(machine)
    }

    /// Puts other bytes where the endorsement certificate was.
    pub(super) fn replace_endorsement_certificate(&self, bytes: &[u8]) {
        let index = EkKind::Rsa2048.certificate_index();
        self.talk(|tpm| {
            run(tpm, 0x122, &[OWNER, index], &[]);
            store(tpm, index, bytes);
        });
    }

    pub(super) fn talk<T>(&self, work: impl FnOnce(&mut Tpm) -> T) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        work(&mut Tpm::open(&self.emulator.path(), deadline).unwrap())
    }

    /// A device identity whose key is of that shape, issued by the last of `authorities`; those
    /// before it but the first go with it.
    pub(super) fn devid(&self, shape: KeyShape, authorities: &[&Authority]) -> DevId {
        let key = self.key(shape, DEVID_ATTRIBUTES);
        let public = Public::parse(&key.public).unwrap().key().unwrap();
        let (root, intermediates) = authorities.split_first().unwrap();
        let issuer = intermediates.last().unwrap_or(root);
        let mut chain = vec![issuer.devid(&public)];
        chain.extend(intermediates.iter().rev().map(|it| it.certificate()));
        DevId { key, chain }
    }

    /// A key that signs, under the parent of device identities.
    pub(super) fn key(&self, shape: KeyShape, attributes: u32) -> Wrapped {
        let template = template(shape, attributes);
        self.talk(|tpm| {
            let parent = tpm.devid_parent(shape, Auth::NONE).unwrap().handle;
            let password = DEVID_PASSWORD.as_bytes();
            tpm.create_with_password(parent, Auth::NONE, &template, password).unwrap()
        })
    }

    /// The agent's half, with the files of a device identity.
    pub(super) fn agent(&self, devid: &DevId) -> Arc<dyn NodeEvidence> {
        self.agent_with(devid, "").unwrap()
    }

    pub(super) fn agent_with(
        &self,
        devid: &DevId,
        more: &str,
    ) -> Result<Arc<dyn NodeEvidence>, PluginError> {
        super::super::agent(Some(&self.settings(devid, more)), &host())
    }

    /// The settings of the agent's half; what is in `more` comes later.
    pub(super) fn settings(&self, devid: &DevId, more: &str) -> Block {
        let path = |name: &str| self.folder.path().join(name);
        let chain: String = devid.chain.iter().map(Certificate::pem).collect();
        std::fs::write(path("devid.pem"), chain).unwrap();
        std::fs::write(path("devid.pub"), &devid.key.public).unwrap();
        std::fs::write(path("devid.priv"), &devid.key.private).unwrap();
        let password = match more.contains("devid_password") {
            true => String::new(),
            false => format!("devid_password = {DEVID_PASSWORD:?}"),
        };
        let settings = format!(
            "devid_cert_path = {:?}\ndevid_pub_path = {:?}\ndevid_priv_path = {:?}\n\
             tpm_device_path = {:?}\n{password}\n{more}",
            path("devid.pem"),
            path("devid.pub"),
            path("devid.priv"),
            self.emulator.path(),
        );
        Block::parse(&settings).unwrap()
    }
}

/// The public area of a key that signs with SHA-256, without the key.
fn template(shape: KeyShape, attributes: u32) -> Vec<u8> {
    const NULL: u16 = 0x0010;
    let head = |kind| Writer::new().u16(kind).u16(SHA256).u32(attributes).sized(&[]).u16(NULL);
    match shape {
        KeyShape::Rsa2048 => head(0x0001).u16(0x0014).u16(SHA256).u16(2048).u32(0).sized(&[]),
        _ => head(0x0023).u16(0x0018).u16(SHA256).u16(3).u16(NULL).sized(&[]).sized(&[]),
    }
    .finish()
}

const OWNER: u32 = 0x4000_0001;

/// TPM2_NV_DefineSpace and TPM2_NV_Write, as the one who provisions does.
fn store(tpm: &mut Tpm, index: u32, bytes: &[u8]) {
    // OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD, NO_DA.
    let attributes = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25;
    let len = u16::try_from(bytes.len()).unwrap();
    let public = Writer::new().u32(index).u16(SHA256).u32(attributes).sized(&[]).u16(len).finish();
    run(tpm, 0x12a, &[OWNER], &Writer::new().sized(&[]).sized(&public).finish());
    for (number, chunk) in bytes.chunks(512).enumerate() {
        let offset = u16::try_from(number * 512).unwrap();
        run(tpm, 0x137, &[index, index], &Writer::new().sized(chunk).u16(offset).finish());
    }
}

/// A command that one empty password allows.
fn run(tpm: &mut Tpm, code: u32, handles: &[u32], parameters: &[u8]) {
    let auth = Writer::new().u32(0x4000_0009).sized(&[]).u8(1).sized(&[]).finish();
    let body = handles.iter().fold(Writer::new().u32(code), |out, handle| out.u32(*handle));
    let body = body.u32(u32::try_from(auth.len()).unwrap()).bytes(&auth).bytes(parameters);
    let body = body.finish();
    let size = u32::try_from(body.len() + 6).unwrap();
    let answer = tpm.command(&Writer::new().u16(0x8002).u32(size).bytes(&body).finish()).unwrap();
    assert_eq!(answer[6..10], [0; 4], "command 0x{code:x}");
}

/// A load of a key under the parent of device identities; both stay for the conversation.
pub(super) fn load(tpm: &mut Tpm, shape: KeyShape, key: &Wrapped) -> Handle {
    let parent = tpm.devid_parent(shape, Auth::NONE).unwrap().handle;
    let loaded = tpm.load(parent, Auth::NONE, key).unwrap().handle;
    tpm.flush(parent).unwrap();
    loaded
}

pub(super) fn host() -> HostContext {
    HostContext::new(TrustDomain::parse("example.org").unwrap())
}

/// The server's half, which takes these authorities' device identities and these makers' TPMs.
pub(super) struct Judge {
    pub(super) attestor: Arc<dyn NodeAttestor>,
    _folder: TempDir,
}

pub(super) fn bundle(folder: &Path, name: &str, authorities: &[&Authority]) -> PathBuf {
    let path = folder.join(name);
    let text: String = authorities.iter().map(|it| it.certificate().pem()).collect();
    std::fs::write(&path, text).unwrap();
    path
}

pub(super) fn judge(devid: &[&Authority], makers: &[&Authority], host: &HostContext) -> Judge {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "devid_ca_path = {:?}\nendorsement_ca_path = {:?}",
        bundle(folder.path(), "devid.pem", devid),
        bundle(folder.path(), "ek.pem", makers)
    );
    let attestor = super::super::server(Some(&Block::parse(&settings).unwrap()), host).unwrap();
    Judge { attestor, _folder: folder }
}

/// The way between the halves; the challenge and the response may be changed on it.
pub(super) struct Wire<'a> {
    pub(super) agent: &'a dyn NodeEvidence,
    pub(super) change: Change<'a>,
}

type Change<'a> = Box<dyn FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send + 'a>;

impl<'a> Wire<'a> {
    pub(super) fn to(agent: &'a dyn NodeEvidence) -> Self {
        Self { agent, change: Box::new(|_, response| response) }
    }
}

#[async_trait]
impl Challenger for Wire<'_> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let response = self.agent.respond(challenge).await?;
        Ok((self.change)(challenge, response))
    }
}

/// An agent that hangs up when it is asked.
pub(super) struct Silent;

#[async_trait]
impl Challenger for Silent {
    async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(PluginError { code: Code::Cancelled, message: "hung up".into() })
    }
}
