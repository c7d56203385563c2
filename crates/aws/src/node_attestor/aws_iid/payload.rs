//! What an agent shows, and what of it AWS vouches for.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use steeple_pki::cms::{self, CmsError};
use steeple_plugin::{Code, PluginError};

use super::certificates::Certificates;
use super::error;

/// The longest payload that is looked at, in bytes; a real one has about 3500.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The longest text in a document that is taken, in bytes.
const MAX_FIELD: usize = 256;

/// What goes over the wire. Nothing of it is to be believed.
#[derive(Serialize, Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) document: String,
    #[serde(default)]
    pub(super) signature: String,
    #[serde(default)]
    pub(super) rsa2048: String,
}

impl Payload {
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// What AWS says of an instance. There is no other way to have one than by [`Verified::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) account: String,
    pub(super) instance: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) image: String,
}

/// The document's fields that count.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    #[serde(rename = "accountId")]
    account: Option<String>,
    #[serde(rename = "instanceId")]
    instance: Option<String>,
    region: Option<String>,
    #[serde(rename = "availabilityZone")]
    zone: Option<String>,
    #[serde(rename = "imageId")]
    image: Option<String>,
}

impl Document {
    fn parse(text: &[u8]) -> Result<Self, PluginError> {
        let document: Self = object(text).map_err(|why| {
            error(Code::InvalidArgument, format!("failed to unmarshal the IID: {why}"))
        })?;
        let fields = [
            &document.account,
            &document.instance,
            &document.region,
            &document.zone,
            &document.image,
        ];
        if fields.into_iter().flatten().any(|field| field.len() > MAX_FIELD) {
            let text = "failed to unmarshal the IID: a field is too long";
            return Err(error(Code::InvalidArgument, text));
        }
        Ok(document)
    }
}

impl Verified {
    /// The document that AWS signed, which must be the one that the payload shows besides.
    pub(super) fn verify(
        payload: &[u8],
        certificates: &Certificates,
        now: SystemTime,
    ) -> Result<Self, PluginError> {
        let refused = |what: String| error(Code::InvalidArgument, what);
        let payload = parse(payload)?;
        // Only which key to expect is taken from what nobody has vouched for yet.
        let claimed = Document::parse(payload.document.as_bytes())?.region.unwrap_or_default();
        if payload.rsa2048.is_empty() {
            return Err(refused(match payload.signature.is_empty() {
                true => "instance identity cryptographic signature is required".to_owned(),
                false => "the RSA-2048 signature of the instance identity document is required; \
                          the RSA-1024 one is not accepted"
                    .to_owned(),
            }));
        }
        let certificate = certificates.of(&claimed).ok_or_else(|| {
            let region: String = claimed.chars().take(64).collect();
            let text = format!(
                "failed to load the AWS CA certificate for region {region:?}: \
                 unsupported region {region:?}"
            );
            error(Code::Internal, text)
        })?;
        let message = decode(&payload.rsa2048).ok_or_else(|| {
            refused("failed to decode the instance identity cryptographic signature".to_owned())
        })?;
        let signed = cms::signed_by(&message, std::slice::from_ref(certificate));
        let signed = signed.map_err(|why| refused(refusal(&why)))?;
        if !certificate.is_valid_at(now) {
            let text = "failed verification of instance identity cryptographic signature: x509: \
                        certificate has expired or is not yet valid";
            return Err(refused(text.to_owned()));
        }
        if signed.content != payload.document.as_bytes() {
            let text = "instance identity document does not match the verified PKCS7 content";
            return Err(refused(text.to_owned()));
        }
        // From here on, what was verified, and nothing else.
        let document = Document::parse(&signed.content)?;
        let region = document.region.unwrap_or_default();
        if region != claimed {
            return Err(refused("the document's region is not its own".to_owned()));
        }
        Ok(Self {
            account: document.account.unwrap_or_default(),
            instance: document.instance.unwrap_or_default(),
            region,
            zone: document.zone.unwrap_or_default(),
            image: document.image.unwrap_or_default(),
        })
    }
}

fn parse(payload: &[u8]) -> Result<Payload, PluginError> {
    let refused = |why: &dyn std::fmt::Display| {
        error(Code::InvalidArgument, format!("failed to unmarshal the attestation data: {why}"))
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(refused(&"it is too large"));
    }
    object(payload).map_err(|why| refused(&why))
}

/// Reads a JSON object; serde would take an array of its fields' values for one, too.
fn object<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let read = serde_json::from_slice(text).map_err(|why| why.to_string())?;
    match text.trim_ascii_start().first() {
        Some(b'{') => Ok(read),
        _ => Err("it is not an object".to_owned()),
    }
}

/// The base64 that AWS breaks into lines.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

/// Why a message is refused, in the words of the library that SPIRE has for it.
fn refusal(why: &CmsError) -> String {
    if !why.is_verification() {
        return format!("failed to parse the instance identity cryptographic signature: {why}");
    }
    let why = match why {
        CmsError::UnknownSigner => "pkcs7: No certificate for signer".to_owned(),
        CmsError::NoSigner => "pkcs7: Message has no signers".to_owned(),
        CmsError::Digest => "pkcs7: Message digest mismatch".to_owned(),
        CmsError::Signature => "crypto/rsa: verification error".to_owned(),
        other => format!("pkcs7: {other}"),
    };
    format!("failed verification of instance identity cryptographic signature: {why}")
}

/// Reads a payload as a server does, for the fuzzer: whatever it is, it is answered.
pub fn read(payload: &[u8]) -> bool {
    Verified::verify(payload, &Certificates::published(), SystemTime::UNIX_EPOCH).is_ok()
}
