//! What goes over the wire: JSON with bytes in base64, each message with its version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use steeple_pki::PublicKey;
use steeple_pki::envelope::Sha2;

use super::pcrs::Bank;

/// The largest evidence that is looked at: room for a chain of certificates, and little else.
pub(super) const MAX_EVIDENCE: usize = 64 * 1024;
/// The largest challenge or response.
pub(super) const MAX_EXCHANGE: usize = 16 * 1024;
/// How many certificates come with an endorsement key at most, its own included.
pub(super) const MAX_CERTIFICATES: usize = 8;
const VERSION: u32 = 1;

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    #[error("it is malformed (line {line}, column {column})")]
    Malformed { line: usize, column: usize },
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    #[error("it has more than {MAX_CERTIFICATES} certificates")]
    Certificates,
}

/// Bytes in base64.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Blob(pub(super) Vec<u8>);

/// How an attestation begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    pub(super) version: u32,
    /// The endorsement key's public area (TPMT_PUBLIC).
    pub(super) ek: Blob,
    /// Its certificate first, then intermediates; DER.
    #[serde(default)]
    pub(super) certificates: Vec<Blob>,
    /// The attestation key's public area.
    pub(super) ak: Blob,
    /// The public area of the key that the agent wants its SVID for, when it is in this TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Blob>,
}

/// What the server asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Challenge {
    pub(super) version: u32,
    /// The content of a TPM2B_ID_OBJECT.
    pub(super) credential: Blob,
    /// The content of a TPM2B_ENCRYPTED_SECRET.
    pub(super) secret: Blob,
    /// New in every attestation.
    pub(super) nonce: Blob,
    /// What is to be quoted.
    #[serde(default)]
    pub(super) pcrs: Vec<Bank>,
}

/// What the agent answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Response {
    pub(super) version: u32,
    /// What the credential held.
    pub(super) secret: Blob,
    /// The PCRs, by the attestation key.
    pub(super) quote: Statement,
    /// Their values.
    #[serde(default)]
    pub(super) values: Vec<Value>,
    /// The certification of [`Evidence::key`], by the attestation key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certification: Option<Statement>,
}

/// What the TPM says, signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    /// TPMS_ATTEST.
    pub(super) attest: Blob,
    /// TPMT_SIGNATURE.
    pub(super) signature: Blob,
}

/// The value of a PCR.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Value {
    pub(super) hash: String,
    pub(super) pcr: u8,
    pub(super) value: Blob,
}

impl Evidence {
    pub(super) fn new(ek: Vec<u8>, ak: Vec<u8>) -> Self {
        Self { version: VERSION, ek: Blob(ek), certificates: Vec::new(), ak: Blob(ak), key: None }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let evidence: Self = read(bytes, MAX_EVIDENCE)?;
        if evidence.certificates.len() > MAX_CERTIFICATES {
            return Err(MessageError::Certificates);
        }
        Ok(evidence)
    }
}

impl Challenge {
    pub(super) fn new(credential: Vec<u8>, secret: Vec<u8>, nonce: &[u8], pcrs: &[Bank]) -> Self {
        let nonce = Blob(nonce.to_vec());
        let (credential, secret) = (Blob(credential), Blob(secret));
        Self { version: VERSION, credential, secret, nonce, pcrs: pcrs.to_vec() }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        read(bytes, MAX_EXCHANGE)
    }
}

impl Response {
    pub(super) fn new(secret: Vec<u8>, quote: Statement) -> Self {
        let secret = Blob(secret);
        Self { version: VERSION, secret, quote, values: Vec::new(), certification: None }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        read(bytes, MAX_EXCHANGE)
    }
}

impl From<steeple_tpm::Attested> for Statement {
    fn from(attested: steeple_tpm::Attested) -> Self {
        Self { attest: Blob(attested.attest), signature: Blob(attested.signature) }
    }
}

/// What the attestation key's statements are bound to: the server's nonce, and the key of the SVID
/// (its SubjectPublicKeyInfo), so that nobody in between gets an SVID for a key of theirs.
pub(super) fn binding(nonce: &[u8], key: Option<&PublicKey>) -> Vec<u8> {
    let key = Sha2::Sha256.digest(&[key.map_or(&[][..], PublicKey::spki_der)]);
    Sha2::Sha256.digest(&[b"steeple node attestation tpm, version 1\0", nonce, &key])
}

/// The encoding of a message.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_default()
}

/// The version is looked at first, so that a later one is called that.
fn read<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, MessageError> {
    #[derive(Deserialize)]
    struct Any {
        version: u32,
    }
    if bytes.len() > limit {
        return Err(MessageError::TooLarge(limit));
    }
    // Not serde's own text, which repeats what stands there.
    let malformed = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        MessageError::Malformed { line, column }
    };
    let Any { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version != VERSION {
        return Err(MessageError::Version(version));
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(|_| D::Error::custom("no base64"))
    }
}
