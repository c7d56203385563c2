//! The agent's half.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steeple_pki::{PublicKey, Signer};
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_tpm::template::{self, KeyShape};
use steeple_tpm::{Access, Auth, EkKind, Key, Loaded, Parent, Tpm, TpmError, Wrapped};
use zeroize::Zeroizing;

use super::config::AgentConfig;
use super::payload::{self, Blob, Challenge, Evidence, MAX_CERTIFICATES, Response, Value};
use super::{NAME, error, invalid, pcrs, trust};

/// Shows what the machine's TPM is.
pub(super) struct Agent {
    access: Arc<Access>,
    known: Arc<Known>,
    /// The attestation that was begun.
    begun: Mutex<Option<Begun>>,
}

/// What was configured.
struct Known {
    ek: Option<EkKind>,
    certificate: Option<PathBuf>,
    endorsement: Zeroizing<Vec<u8>>,
    owner: Zeroizing<Vec<u8>>,
}

/// What an answer needs. The attestation key is made for one attestation; encrypted by the TPM's
/// storage root key, it takes no place in the TPM meanwhile.
struct Begun {
    ek: EkKind,
    ak: Wrapped,
    parent: Parent,
    /// The key that the SVID is asked for.
    subject: Option<PublicKey>,
    /// That key, if it is in the TPM.
    resident: Option<Arc<Key>>,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error("ek_certificate_path: {0}")]
    Certificate(#[from] trust::TrustError),
    #[error("ek_certificate_path: more than {MAX_CERTIFICATES} certificates")]
    Certificates,
    #[error("the server asks for PCRs that make no sense: {0}")]
    Banks(#[from] pcrs::BankError),
}

impl From<Failure> for PluginError {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Tpm(reason) if reason.is_unavailable() => Code::Unavailable,
            Failure::Tpm(_) => Code::Internal,
            Failure::Certificate(_) | Failure::Certificates => Code::FailedPrecondition,
            Failure::Banks(_) => Code::InvalidArgument,
        };
        error(code, failure.to_string())
    }
}

impl Agent {
    pub(super) fn new(config: AgentConfig) -> Result<Self, PluginError> {
        let device = steeple_tpm::find(config.device.as_deref()).map_err(|reason| {
            invalid(format!("tpm device path could not be detected: {reason}"))
        })?;
        let AgentConfig { ek, certificate, endorsement, owner, .. } = config;
        let known = Arc::new(Known { ek, certificate, endorsement, owner });
        Ok(Self { access: Access::to(&device), known, begun: Mutex::new(None) })
    }

    fn keep(&self, begun: Option<Begun>) -> Option<Begun> {
        let mut slot = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, begun)
    }

    async fn begin(&self, key: Option<&dyn Signer>) -> Result<Vec<u8>, PluginError> {
        self.keep(None);
        let resident = key.and_then(|key| self.resident(key));
        let subject = key.map(|key| key.public_key().clone());
        let known = Arc::clone(&self.known);
        let begin = move |tpm: &mut Tpm| known.begin(tpm, subject, resident);
        let (evidence, begun) = self.access.run(PATIENCE, begin).await?;
        self.keep(Some(begun));
        Ok(payload::encode(&evidence))
    }

    /// The signer's key, if it is in the TPM that this plugin shows.
    fn resident(&self, signer: &dyn Signer) -> Option<Arc<Key>> {
        let key = signer.holder()?.downcast_ref::<Arc<Key>>()?;
        if key.access().path() != self.access.path() {
            tracing::warn!(
                plugin_name = NAME,
                "The agent's key is in another TPM than the one it is attested by"
            );
            return None;
        }
        Some(Arc::clone(key))
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        self.begin(None).await
    }

    async fn payload_for(&self, key: &dyn Signer) -> Result<Vec<u8>, PluginError> {
        self.begin(Some(key)).await
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let challenge = Challenge::parse(challenge)
            .map_err(|reason| invalid(format!("failed to read the challenge: {reason}")))?;
        let unexpected = || error(Code::Internal, "server issued unexpected challenge");
        // One answer to an attestation: an attestation key that says a second thing was asked by
        // somebody else.
        let begun = self.keep(None).ok_or_else(unexpected)?;
        let known = Arc::clone(&self.known);
        let answer = move |tpm: &mut Tpm| known.answer(tpm, &begun, &challenge);
        let response = self.access.run(PATIENCE, answer).await?;
        Ok(payload::encode(&response))
    }

    async fn end(&self) {
        self.keep(None);
    }
}

impl Known {
    fn begin(
        &self,
        tpm: &mut Tpm,
        subject: Option<PublicKey>,
        resident: Option<Arc<Key>>,
    ) -> Result<(Evidence, Begun), Failure> {
        let owner = Auth::Password(&self.owner);
        let parent = tpm.best_srk()?;
        let shape =
            if parent == Parent::Srk(KeyShape::P256) { KeyShape::P256 } else { KeyShape::Rsa2048 };
        let srk = tpm.parent(parent, owner)?;
        let ak = tpm.create(srk.handle, Auth::NONE, &template::ak(shape))?;
        tpm.leave(parent, srk.handle)?;
        let (kind, certificates) = self.certificates(tpm)?;
        let ek = tpm.ek(kind, Auth::Password(&self.endorsement), owner)?;
        let mut evidence = Evidence::new(ek.public, ak.public.clone());
        evidence.certificates = certificates.into_iter().map(Blob).collect();
        evidence.key = resident.as_ref().map(|key| Blob(key.as_wrapped().public.clone()));
        Ok((evidence, Begun { ek: kind, ak, parent, subject, resident }))
    }

    /// The endorsement key to show, and the certificates of it.
    fn certificates(&self, tpm: &mut Tpm) -> Result<(EkKind, Vec<Vec<u8>>), Failure> {
        if let Some(path) = &self.certificate {
            let chain = trust::certificates(path)?;
            if chain.len() > MAX_CERTIFICATES {
                return Err(Failure::Certificates);
            }
            let kind = self.ek.unwrap_or(EkKind::Rsa2048);
            return Ok((kind, chain.iter().map(|it| it.der().to_vec()).collect()));
        }
        let owner = Auth::Password(&self.owner);
        let choice = self.ek.map_or(EkKind::ALL.to_vec(), |kind| vec![kind]);
        for kind in &choice {
            if let Some(certificate) = tpm.ek_certificate(*kind, owner)? {
                return Ok((*kind, vec![certificate]));
            }
        }
        Ok((choice[0], Vec::new()))
    }

    fn answer(
        &self,
        tpm: &mut Tpm,
        begun: &Begun,
        challenge: &Challenge,
    ) -> Result<Response, Failure> {
        let selections = pcrs::selections(&challenge.pcrs)?;
        let owner = Auth::Password(&self.owner);
        let ak = tpm.load_under(begun.parent, owner, &begun.ak)?;
        let secret = self.activate(tpm, begun, &ak, challenge)?;
        let binding = payload::binding(&challenge.nonce.0, begun.subject.as_ref());
        let mut values = Vec::new();
        for selection in &selections {
            let hash = pcrs::hash_name(selection.hash).unwrap_or_default();
            for (pcr, value) in tpm.read_pcrs(selection)? {
                values.push(Value { hash: hash.to_owned(), pcr, value: Blob(value) });
            }
        }
        let quote = tpm.quote((ak.handle, Auth::NONE), &binding, &selections)?;
        let mut response = Response::new(secret, quote.into());
        response.values = values;
        if let Some(key) = &begun.resident {
            let key = key.load(tpm)?;
            let signer = (ak.handle, Auth::NONE);
            let certified = tpm.certify((key.handle, Auth::NONE), signer, &binding)?;
            response.certification = Some(certified.into());
        }
        Ok(response)
    }

    /// Opens what the server wrapped for this TPM.
    fn activate(
        &self,
        tpm: &mut Tpm,
        begun: &Begun,
        ak: &Loaded,
        challenge: &Challenge,
    ) -> Result<Vec<u8>, Failure> {
        let endorsement = Auth::Password(&self.endorsement);
        let ek = tpm.ek(begun.ek, endorsement, Auth::Password(&self.owner))?;
        let policy = tpm.endorsement_policy(endorsement)?;
        let secret = tpm.activate_credential(
            (ak.handle, Auth::NONE),
            (ek.handle, Auth::Policy(policy)),
            &challenge.credential.0,
            &challenge.secret.0,
        )?;
        tpm.leave_ek(&ek)?;
        Ok(secret)
    }
}

/// For half of an attestation. A discrete TPM derives an RSA endorsement key in seconds.
const PATIENCE: Duration = Duration::from_secs(40);
