//! What the agent says to its TPM: once to gather evidence, once to answer the server.
//!
//! Between the two nothing of ours is left in the TPM: its places are few, others need them, and a
//! server may be slow. The attestation key waits outside, encrypted by the TPM.

use std::time::Duration;

use steeple_pki::envelope;
use steeple_tpm::verify::{Parameters, Public, Signature};
use steeple_tpm::{Access, Auth, EkKind, Handle, Tpm, TpmError, Wrapped, template};
use zeroize::Zeroizing;

use super::config::{AgentConfig, Passwords};
use super::payload::{Blob, Challenge, Request, Response};

/// How long one conversation may take. Making RSA keys takes a slow TPM half a minute.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Why a conversation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not begin.
    Start(TpmError),
    /// It ended with this.
    Said(String),
}

impl From<TpmError> for Failure {
    fn from(error: TpmError) -> Self {
        Self::Start(error)
    }
}

impl Failure {
    /// The text, with SPIRE's words around the TPM's.
    pub(super) fn text(self, access: &Access) -> String {
        let (path, error) = match self {
            Self::Start(error) => (access.path().display(), error),
            Self::Said(text) => return text,
        };
        format!("unable to start a new TPM session: cannot open TPM at \"{path}\": {error}")
    }
}

/// The key of the device identity, and what its use takes.
#[derive(Clone)]
pub(super) struct DevId {
    key: Wrapped,
    public: Public,
    shape: template::KeyShape,
    hash: u16,
    passwords: Passwords,
    patience: Duration,
}

/// An attestation key that is used for one attestation.
pub(super) struct Attestor {
    key: Wrapped,
    password: Zeroizing<String>,
}

impl DevId {
    /// The key in the files.
    pub(super) fn new(config: &AgentConfig, patience: Duration) -> Result<Self, String> {
        // The bare structure, or behind its length as tpm2-tools writes it.
        let public = Public::parse(&config.public)
            .or_else(|error| Public::parse_sized(&config.public).map_err(|_| error))
            .map_err(|error| format!("tpm2.DecodePublic failed: {error}"))?;
        if !public.attributes().sign() {
            return Err("not a signing key".into());
        }
        let shape = match public.parameters() {
            Parameters::Rsa { .. } => template::KeyShape::Rsa2048,
            Parameters::Ecc { .. } => template::KeyShape::P256,
        };
        let hash = public.scheme().map(|scheme| scheme.hash);
        let hash = hash.filter(|hash| *hash != steeple_tpm::spec::ALG_NULL);
        let hash = hash.ok_or("signature hash algorithm is NULL")?;
        let private = without_length(&config.private).to_vec();
        let key = Wrapped { public: public.encoded().to_vec(), private };
        Ok(Self { key, public, shape, hash, passwords: config.passwords.clone(), patience })
    }

    /// The evidence without the certificates of the device identity, and the key to answer with.
    pub(super) async fn gather(&self, access: &Access) -> Result<(Request, Attestor), Failure> {
        let devid = self.clone();
        access.run(self.patience, move |tpm| devid.gather_in(tpm).map_err(Failure::Said)).await
    }

    /// The response to a challenge.
    pub(super) async fn answer(
        &self,
        access: &Access,
        attestor: Attestor,
        challenge: Challenge,
    ) -> Result<Response, Failure> {
        let devid = self.clone();
        let work =
            move |tpm: &mut Tpm| devid.answer_in(tpm, &attestor, &challenge).map_err(Failure::Said);
        access.run(self.patience, work).await
    }

    fn gather_in(&self, tpm: &mut Tpm) -> Result<(Request, Attestor), String> {
        let start = |what: String| format!("unable to start a new TPM session: {what}");
        let parent = self.parent(tpm).map_err(start)?;
        let devid = self.load(tpm, parent).map_err(start)?;

        let password = random_password();
        let template = template::ak(template::KeyShape::Rsa2048);
        let key = tpm
            .create_with_password(parent, Auth::NONE, &template, password.as_bytes())
            .map_err(|error| {
                start(format!("cannot create attestation key: failed to create AK: {error}"))
            })?;
        let attestor = Attestor { key, password };
        let ak = attestor.load(tpm, parent).map_err(start)?;
        let flushed = tpm.flush(parent);
        flushed.map_err(|error| start(format!("cannot flush storage root key: {error}")))?;
        let ek = self.ek(tpm).map_err(start)?;

        let index = EkKind::Rsa2048.certificate_index();
        let certificate = tpm.ek_certificate(EkKind::Rsa2048, password_of(&self.passwords.owner));
        let no_certificate = |reason: String| {
            format!(
                "unable to get endorsement certificate: failed to read NV index {index:08x}: \
                 {reason}"
            )
        };
        let certificate = certificate
            .map_err(|error| no_certificate(error.to_string()))?
            .ok_or_else(|| no_certificate("there is none".into()))?;

        let certified = tpm
            .certify((devid, password_of(&self.passwords.devid)), (ak, attestor.auth()), &[])
            .map_err(|error| {
                format!("unable to certify DevID key: tpm2.Certify failed: {error}")
            })?;
        let request = Request {
            devid_cert: None,
            devid_pub: Blob(self.key.public.clone()),
            ek_cert: Blob(certificate),
            ek_pub: Blob(ek.1),
            ak_pub: Blob(attestor.key.public.clone()),
            certified_devid: Blob(certified.attest),
            certification_signature: Blob(certified.signature),
        };
        Ok((request, attestor))
    }

    fn answer_in(
        &self,
        tpm: &mut Tpm,
        attestor: &Attestor,
        challenge: &Challenge,
    ) -> Result<Response, String> {
        let start = |what: String| format!("unable to start a new TPM session: {what}");
        let parent = self.parent(tpm).map_err(start)?;
        let devid = self.load(tpm, parent).map_err(start)?;
        let signature = self.sign(tpm, devid, &challenge.devid.0).map_err(|reason| {
            format!("unable to solve proof of possession challenge: failed to sign nonce: {reason}")
        })?;
        let Some(activation) = &challenge.cred_activation else {
            return Err("received empty credential activation challenge from server".into());
        };
        let unsolved = |reason: String| {
            format!(
                "unable to solve proof of residency challenge: failed to activate credential: \
                 {reason}"
            )
        };
        // What is not needed any more makes room.
        let ak = attestor.load(tpm, parent).map_err(unsolved)?;
        let flushed = tpm.flush(devid).and_then(|()| tpm.flush(parent));
        flushed.map_err(|error| unsolved(error.to_string()))?;
        let (ek, _) = self.ek(tpm).map_err(unsolved)?;
        let endorsement = password_of(&self.passwords.endorsement);
        let secret = tpm
            .endorsement_policy(endorsement)
            .and_then(|policy| {
                tpm.activate_credential(
                    (ak, attestor.auth()),
                    (ek, Auth::Policy(policy)),
                    &activation.credential.0,
                    &activation.secret.0,
                )
            })
            .map_err(|error| unsolved(error.to_string()))?;
        Ok(Response { devid: Blob(signature), cred_activation: Blob(secret) })
    }

    fn parent(&self, tpm: &mut Tpm) -> Result<Handle, String> {
        let made = tpm.devid_parent(self.shape, password_of(&self.passwords.owner));
        made.map(|made| made.handle).map_err(|error| {
            format!("cannot load DevID key on TPM: tpm2.CreatePrimaryEx failed: {error}")
        })
    }

    fn load(&self, tpm: &mut Tpm, parent: Handle) -> Result<Handle, String> {
        let loaded = tpm.load(parent, Auth::NONE, &self.key);
        loaded
            .map(|loaded| loaded.handle)
            .map_err(|error| format!("cannot load DevID key on TPM: tpm2.Load failed: {error}"))
    }

    fn ek(&self, tpm: &mut Tpm) -> Result<(Handle, Vec<u8>), String> {
        let owner = password_of(&self.passwords.owner);
        let made = tpm.ek(EkKind::Rsa2048, password_of(&self.passwords.endorsement), owner);
        made.map(|made| (made.handle, made.public))
            .map_err(|error| format!("cannot create endorsement key: {error}"))
    }

    fn sign(&self, tpm: &mut Tpm, key: Handle, message: &[u8]) -> Result<Vec<u8>, String> {
        let (digest, ticket) =
            tpm.hash(message, self.hash).map_err(|error| format!("tpm2.Hash failed: {error}"))?;
        let signature = tpm
            .sign_hashed(key, password_of(&self.passwords.devid), &digest, &ticket)
            .map_err(|error| format!("tpm2.Sign failed: {error}"))?;
        let kind = self.public.key().map_err(|error| error.to_string())?.kind();
        let signature = Signature::parse(&signature).map_err(|error| error.to_string())?;
        signature.to_asn1(kind).map_err(|error| error.to_string())
    }
}

impl Attestor {
    fn auth(&self) -> Auth<'_> {
        Auth::Password(self.password.as_bytes())
    }

    fn load(&self, tpm: &mut Tpm, parent: Handle) -> Result<Handle, String> {
        let loaded = tpm.load(parent, Auth::NONE, &self.key);
        loaded
            .map(|loaded| loaded.handle)
            .map_err(|error| format!("cannot load attestation key: tpm2.Load failed: {error}"))
    }
}

/// Without the two bytes of length that tpm2-tools puts in front.
fn without_length(blob: &[u8]) -> &[u8] {
    match blob.split_first_chunk() {
        Some((len, rest)) if usize::from(u16::from_be_bytes(*len)) == rest.len() => rest,
        _ => blob,
    }
}

fn password_of(password: &super::config::Password) -> Auth<'_> {
    Auth::Password(password.expose().as_bytes())
}

/// As long as a TPM takes; without zeros, which TPMs cut off at the end.
fn random_password() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0_u8; 16]);
    envelope::random(&mut *bytes);
    let mut text = Zeroizing::new(String::with_capacity(32));
    for byte in bytes.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}
