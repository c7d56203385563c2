//! The messages between the halves (TG-31).

use steeple_pki::digest::Sha256;
use steeple_pki::envelope;
use steeple_pki::ssh::{self, PublicKey, Signature, SshError};
use steeple_pki::{PrivateKey, SignError};
use steeple_plugin::go_json::{self, Object};

/// The length of a nonce, in bytes.
const NONCE_LEN: usize = 32;
/// How long the first message may be; the largest certificate that is looked at, in base64.
const MAX_PAYLOAD: usize = ssh::MAX_BLOB_LEN / 3 * 4 + 1024;
/// How long a challenge or a response may be.
const MAX_MESSAGE: usize = 16 * 1024;

const TOO_LARGE: &str = "message is too large";

/// The encoding of the certificate in the first message; may be empty.
pub(super) fn certificate(payload: &[u8]) -> Result<Vec<u8>, String> {
    if payload.len() > MAX_PAYLOAD {
        return Err(TOO_LARGE.to_owned());
    }
    Object::parse(payload, "sshpop.attestationData")?.bytes("Certificate")
}

/// The first message.
pub(super) fn attestation_data(certificate: &[u8]) -> Vec<u8> {
    format!("{{\"Certificate\":\"{}\"}}", go_json::encode(certificate)).into_bytes()
}

/// What the server asks the key's holder to sign.
pub(super) struct Challenge {
    nonce: [u8; NONCE_LEN],
}

/// Why a response proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VerifyError {
    #[error("failed to combine nonces: {0}")]
    Nonces(&'static str),
    #[error("failed to verify signature: {0}")]
    Signature(SshError),
}

impl Challenge {
    pub(super) fn new() -> Self {
        let mut nonce = [0; NONCE_LEN];
        envelope::random(&mut nonce);
        Self { nonce }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        format!("{{\"Nonce\":\"{}\"}}", go_json::encode(&self.nonce)).into_bytes()
    }

    /// Whether `response` proves possession of `key`.
    pub(super) fn verify(&self, key: &PublicKey, response: &Response) -> Result<(), VerifyError> {
        let signed = combine(&self.nonce, &response.nonce).map_err(VerifyError::Nonces)?;
        let signature = response.signature.as_ref();
        let signature = signature.ok_or(VerifyError::Signature(SshError::Signature))?;
        key.verify_challenge(&signed, signature).map_err(VerifyError::Signature)
    }
}

/// The answer to a challenge.
pub(super) struct Response {
    nonce: Vec<u8>,
    signature: Option<Signature>,
}

impl Response {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_MESSAGE {
            return Err(TOO_LARGE.to_owned());
        }
        let fields = Object::parse(text, "sshpop.challengeResponse")?;
        let signature = match fields.object("Signature", "ssh.Signature")? {
            Some(signature) => Some(Signature {
                format: signature.text("Format")?.to_owned(),
                blob: signature.bytes("Blob")?,
                rest: signature.bytes("Rest")?,
            }),
            None => None,
        };
        Ok(Self { nonce: fields.bytes("Nonce")?, signature })
    }
}

/// Why a challenge is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseError {
    #[error("failed to unmarshal challenge request: {0}")]
    Malformed(String),
    #[error("failed to combine nonces: {0}")]
    Nonces(&'static str),
    #[error("failed to sign data: {0}")]
    Sign(#[from] SignError),
}

/// Answers a challenge with `key`.
pub(super) fn respond(key: &PrivateKey, challenge: &[u8]) -> Result<Vec<u8>, ResponseError> {
    if challenge.len() > MAX_MESSAGE {
        return Err(ResponseError::Malformed(TOO_LARGE.to_owned()));
    }
    let asked = Object::parse(challenge, "sshpop.challengeRequest");
    let asked = asked.and_then(|it| it.bytes("Nonce")).map_err(ResponseError::Malformed)?;
    let mut ours = [0; NONCE_LEN];
    envelope::random(&mut ours);
    let signed = combine(&asked, &ours).map_err(ResponseError::Nonces)?;
    let signature = ssh::sign(key, &signed)?;
    let response = serde_json::json!({
        "Nonce": go_json::encode(&ours),
        "Signature": {
            "Format": signature.format,
            "Blob": go_json::encode(&signature.blob),
            "Rest": null,
        },
    });
    Ok(response.to_string().into_bytes())
}

/// What is signed: both nonces, so that neither side chooses alone.
fn combine(challenge: &[u8], response: &[u8]) -> Result<[u8; 32], &'static str> {
    if challenge.len() != NONCE_LEN {
        return Err("invalid challenge nonce size");
    }
    if response.len() != NONCE_LEN {
        return Err("invalid response nonce size");
    }
    Ok(Sha256::of(&[challenge, response].concat()))
}
