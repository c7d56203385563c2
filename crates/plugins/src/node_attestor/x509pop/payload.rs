//! The messages between the halves (TG-28), and what is signed (TG-29).

use steeple_pki::envelope;
use steeple_pki::{KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};
use steeple_plugin::go_json::{self, Object};

/// The length of a nonce, in bytes.
const NONCE_LEN: usize = 32;
/// How long a certificate may be, in base64; real ones have one or two thousand characters.
const MAX_CERTIFICATE: usize = 32 * 1024;
/// How long a challenge or a response may be: the signature of RSA with 8192 bits has 1366
/// characters.
const MAX_MESSAGE: usize = 16 * 1024;

/// Why the first message is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("failed to unmarshal data: {0}")]
    Malformed(String),
    #[error("no certificate to attest")]
    Empty,
    #[error("too many intermediate certificates")]
    TooMany,
}

/// The certificates of a payload as they stand, the leaf first.
pub(super) fn certificates(
    payload: &[u8],
    max_intermediates: usize,
) -> Result<Vec<Vec<u8>>, PayloadError> {
    // Far more than as many real certificates take, and far less than a message may have.
    let most = max_intermediates.saturating_add(1);
    if payload.len() > most.saturating_mul(MAX_CERTIFICATE) {
        return Err(PayloadError::Malformed("message is too large".to_owned()));
    }
    let data = Object::parse(payload, "x509pop.AttestationData");
    let data = data.map_err(PayloadError::Malformed)?;
    let list = data.list_of_bytes("certificates", most).map_err(PayloadError::Malformed)?;
    match list {
        (_, 0) => Err(PayloadError::Empty),
        (_, count) if count > most => Err(PayloadError::TooMany),
        (certificates, _) => Ok(certificates),
    }
}

/// The first message.
pub(super) fn attestation_data<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let list: Vec<String> = certificates.map(go_json::encode).collect();
    serde_json::json!({ "certificates": list }).to_string().into_bytes()
}

/// What the server asks the key's holder to sign.
pub(super) struct Challenge {
    kind: SignatureKind,
    nonce: [u8; NONCE_LEN],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SignatureKind {
    Rsa,
    Ecdsa,
}

impl SignatureKind {
    /// What a key of `kind` signs with; else Go's name of its type.
    fn of(kind: KeyKind) -> Result<Self, &'static str> {
        match kind {
            KeyKind::Rsa(_) => Ok(Self::Rsa),
            KeyKind::P256 | KeyKind::P384 | KeyKind::P521 => Ok(Self::Ecdsa),
            _ => Err("ed25519.PublicKey"),
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Rsa => "rsa_signature",
            Self::Ecdsa => "ecdsa_signature",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::Ecdsa => "ECDSA",
        }
    }
}

impl Challenge {
    /// A new one for the holder of `key`.
    pub(super) fn new(key: &PublicKey) -> Result<Self, String> {
        let kind = SignatureKind::of(key.kind())
            .map_err(|name| format!("unsupported public key type {name}"))?;
        let mut nonce = [0; NONCE_LEN];
        envelope::random(&mut nonce);
        Ok(Self { kind, nonce })
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let asked = format!("{{\"nonce\":\"{}\"}}", go_json::encode(&self.nonce));
        let (rsa, ecdsa) = match self.kind {
            SignatureKind::Rsa => (asked.as_str(), "null"),
            SignatureKind::Ecdsa => ("null", asked.as_str()),
        };
        format!("{{\"rsa_signature\":{rsa},\"ecdsa_signature\":{ecdsa}}}").into_bytes()
    }

    /// Whether `response` proves possession of `key`, which this challenge was made for.
    pub(super) fn verify(&self, key: &PublicKey, response: &Response) -> Result<(), String> {
        let name = self.kind.name();
        let failed = |_| format!("{name} signature verify failed");
        match (self.kind, response) {
            (SignatureKind::Rsa, Response { rsa: Some(rsa), .. }) => {
                let signed = combine(&self.nonce, &rsa.nonce)?;
                key.verify_rsa_pss_any_salt(&signed, &rsa.signature).map_err(failed)
            }
            (SignatureKind::Ecdsa, Response { ecdsa: Some(ecdsa), .. }) => {
                let signed = combine(&self.nonce, &ecdsa.nonce)?;
                key.verify_ecdsa_over_sha256(&signed, &ecdsa.r, &ecdsa.s).map_err(failed)
            }
            _ => Err(format!("expecting {name} response")),
        }
    }
}

/// The answer to a challenge, as far as it is there.
#[derive(Default)]
pub(super) struct Response {
    rsa: Option<RsaSignature>,
    ecdsa: Option<EcdsaSignature>,
}

struct RsaSignature {
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

struct EcdsaSignature {
    nonce: Vec<u8>,
    r: Vec<u8>,
    s: Vec<u8>,
}

impl Response {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_MESSAGE {
            return Err("message is too large".to_owned());
        }
        let fields = Object::parse(text, "x509pop.Response")?;
        let mut out = Self::default();
        let rsa = SignatureKind::Rsa.field();
        if let Some(rsa) = fields.object(rsa, "x509pop.RSASignatureResponse")? {
            let (nonce, signature) = (rsa.bytes("nonce")?, rsa.bytes("signature")?);
            out.rsa = Some(RsaSignature { nonce, signature });
        }
        let ecdsa = SignatureKind::Ecdsa.field();
        if let Some(ecdsa) = fields.object(ecdsa, "x509pop.ECDSASignatureResponse")? {
            let (r, s) = (ecdsa.bytes("r")?, ecdsa.bytes("s")?);
            out.ecdsa = Some(EcdsaSignature { nonce: ecdsa.bytes("nonce")?, r, s });
        }
        Ok(out)
    }
}

/// Why a challenge is not answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResponseError {
    #[error("unable to unmarshal challenge: {0}")]
    Malformed(String),
    #[error("failed to calculate challenge response: {0}")]
    Failed(String),
}

/// Answers a challenge with `key`.
pub(super) fn respond(key: &PrivateKey, challenge: &[u8]) -> Result<Vec<u8>, ResponseError> {
    if challenge.len() > MAX_MESSAGE {
        return Err(ResponseError::Malformed("message is too large".to_owned()));
    }
    let fields = Object::parse(challenge, "x509pop.Challenge").map_err(ResponseError::Malformed)?;
    let kind = SignatureKind::of(key.public_key().kind()).map_err(|_| {
        ResponseError::Failed("unsupported private key type ed25519.PrivateKey".to_owned())
    })?;
    let asked = fields.object(kind.field(), "x509pop.SignatureChallenge");
    let asked = asked.map_err(ResponseError::Malformed)?;
    let name = kind.name();
    let asked =
        asked.ok_or_else(|| ResponseError::Failed(format!("expecting {name} challenge")))?;
    let theirs = asked.bytes("nonce").map_err(ResponseError::Malformed)?;
    let mut ours = [0; NONCE_LEN];
    envelope::random(&mut ours);
    let signed = combine(&theirs, &ours).map_err(ResponseError::Failed)?;
    let failed = |error: steeple_pki::SignError| ResponseError::Failed(error.to_string());
    let nonce = go_json::encode(&ours);
    let text = match kind {
        SignatureKind::Rsa => {
            let signature = key.sign(SignatureAlgorithm::RsaPssSha256, &signed).map_err(failed)?;
            let signature = go_json::encode(&signature);
            format!(
                "{{\"rsa_signature\":{{\"nonce\":\"{nonce}\",\"signature\":\"{signature}\"}},\
                 \"ecdsa_signature\":null}}"
            )
        }
        SignatureKind::Ecdsa => {
            let (r, s) = key.sign_ecdsa_over_sha256(&signed).map_err(failed)?;
            let (r, s) = (go_json::encode(&r), go_json::encode(&s));
            format!(
                "{{\"rsa_signature\":null,\
                 \"ecdsa_signature\":{{\"nonce\":\"{nonce}\",\"r\":\"{r}\",\"s\":\"{s}\"}}}}"
            )
        }
    };
    Ok(text.into_bytes())
}

/// What is signed by way of SHA-256: both nonces, so that neither side chooses alone.
fn combine(challenge: &[u8], response: &[u8]) -> Result<Vec<u8>, String> {
    if challenge.len() != NONCE_LEN {
        return Err("invalid challenge nonce".to_owned());
    }
    if response.len() != NONCE_LEN {
        return Err("invalid response nonce".to_owned());
    }
    Ok([challenge, response].concat())
}
