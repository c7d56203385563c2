//! JWT-SVIDs: compact JWS (RFC 7515) signed and verified as the JWT-SVID standard asks.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use steeple_spiffe::{IdError, SpiffeId, TrustDomain};
use thiserror::Error;

use crate::json;
use crate::keys::{KeyKind, PublicKey, SignError, SignatureAlgorithm, Signer};

pub(crate) mod ecdsa;
mod go_text;
pub mod issuer;
mod token;

pub use token::UnverifiedJwt;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_LEN: usize = 64 * 1024;

/// How far a verifier's clock may be behind or ahead, by default.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// The algorithms that a JWT-SVID may be signed with (JWT-SVID §2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names say it (RFC 7518 §3.1)")]
pub enum JwtAlg {
    ES256,
    ES384,
    ES512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
}

impl JwtAlg {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
    ];

    /// The name in a token's header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.as_str() == name)
    }

    /// What SPIRE signs with, by key: P-256 ES256, P-384 ES384, RSA RS256.
    #[must_use]
    pub const fn for_key(kind: KeyKind) -> Option<Self> {
        match kind {
            KeyKind::P256 => Some(Self::ES256),
            KeyKind::P384 => Some(Self::ES384),
            KeyKind::P521 => Some(Self::ES512),
            KeyKind::Rsa(_) => Some(Self::RS256),
            KeyKind::Ed25519 => None,
        }
    }

    const fn goes_with(self, kind: KeyKind) -> bool {
        match self {
            Self::ES256 => matches!(kind, KeyKind::P256),
            Self::ES384 => matches!(kind, KeyKind::P384),
            Self::ES512 => matches!(kind, KeyKind::P521),
            _ => matches!(kind, KeyKind::Rsa(_)),
        }
    }

    const fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::ES256 => SignatureAlgorithm::EcdsaSha256,
            Self::ES384 => SignatureAlgorithm::EcdsaSha384,
            Self::ES512 => SignatureAlgorithm::EcdsaSha512,
            Self::RS256 => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::RS384 => SignatureAlgorithm::RsaPkcs1Sha384,
            Self::RS512 => SignatureAlgorithm::RsaPkcs1Sha512,
            Self::PS256 => SignatureAlgorithm::RsaPssSha256,
            Self::PS384 => SignatureAlgorithm::RsaPssSha384,
            Self::PS512 => SignatureAlgorithm::RsaPssSha512,
        }
    }

    /// The length of each of the two numbers of a raw ECDSA signature; `None` for RSA.
    const fn coordinate_len(self) -> Option<usize> {
        match self {
            Self::ES256 => Some(32),
            Self::ES384 => Some(48),
            Self::ES512 => Some(66),
            _ => None,
        }
    }
}

/// Why a token was refused. The texts are those of SPIRE and go-jose where these have one.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN_LEN`].
    #[error("unable to parse JWT token: token is too large: {0} bytes")]
    TooLarge(usize),
    /// Not three parts with dots between.
    #[error("unable to parse JWT token: go-jose/go-jose: compact JWS format must have three parts")]
    Parts,
    /// A part is not base64url without padding; holds the offset of the first bad byte.
    #[error("unable to parse JWT token: illegal base64 data at input byte {0}")]
    Base64(usize),
    /// The header is not the JSON that it should be; holds the reason.
    #[error("unable to parse JWT token: {0}")]
    Header(String),
    /// The algorithm is none of [`JwtAlg`]; holds its name, cut short.
    #[error(
        "unable to parse JWT token: unexpected signature algorithm {0:?}; expected [\"ES256\" \
         \"ES384\" \"ES512\" \"RS256\" \"RS384\" \"RS512\" \"PS256\" \"PS384\" \"PS512\"]"
    )]
    Algorithm(String),
    /// The header lists critical extensions, none of which is supported.
    #[error("go-jose/go-jose: unsupported critical header")]
    Critical,
    /// No key id in the header.
    #[error("token header missing key id")]
    MissingKeyId,
    /// A `typ` other than JWT and JOSE (JWT-SVID §2.3).
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// The claims are not the JSON that they should be; holds the reason.
    #[error("{0}")]
    Claims(String),
    /// No `sub`.
    #[error("token missing subject claim")]
    MissingSubject,
    /// No `exp`.
    #[error("token missing exp claim")]
    MissingExpiry,
    /// No `iat`, where one is asked for.
    #[error("JWT missing iat claim")]
    MissingIssuedAt,
    /// The `sub` is not a SPIFFE ID.
    #[error("token has in invalid subject claim: {0}")]
    Subject(IdError),
    /// There is no bundle of this trust domain.
    #[error("no keys found for trust domain {:?}", .0.as_str())]
    UnknownTrustDomain(TrustDomain),
    /// The trust domain has no such key; holds the key's id, cut short.
    #[error("public key {key_id:?} not found in trust domain {:?}", .trust_domain.as_str())]
    UnknownKey {
        /// The id in the token.
        key_id: String,
        /// The trust domain of the subject.
        trust_domain: TrustDomain,
    },
    /// The signature does not verify.
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    /// The audience is not among the token's.
    #[error("expected audience in [{expected:?}] (audience={found})")]
    Audience {
        /// What was asked for, cut short.
        expected: String,
        /// What the token has, as Go prints a list, cut short.
        found: String,
    },
    /// It is past `exp`.
    #[error("token has expired")]
    Expired,
    /// It is not yet `nbf`.
    #[error("go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)")]
    NotYetValid,
    /// The `iat` lies in the future.
    #[error("go-jose/go-jose/jwt: validation field, token issued in the future (iat)")]
    IssuedInFuture,
    /// The token could not be signed.
    #[error("failed to sign JWT: {0}")]
    Sign(#[from] SignError),
}

/// Where a verifier finds the keys of a trust domain.
pub trait JwtKeySource {
    /// The key `key_id` of `trust_domain`.
    ///
    /// # Errors
    /// [`JwtError::UnknownTrustDomain`] and [`JwtError::UnknownKey`].
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError>;
}

/// What a verified token says.
#[derive(Clone, Debug)]
pub struct ValidJwt {
    /// The `sub` claim.
    pub spiffe_id: SpiffeId,
    /// All claims.
    pub claims: Map<String, Value>,
    /// The `aud` claim.
    pub audience: Vec<String>,
    /// The `exp` claim.
    pub expires_at: SystemTime,
}

/// The header of the tokens that one key signs, encoded once for all of them.
#[derive(Clone, Debug)]
pub struct Header {
    alg: JwtAlg,
    /// In base64url, with the dot behind it.
    encoded: String,
}

impl Header {
    /// `alg`, `kid` and `typ`, for a key of this kind.
    ///
    /// # Errors
    /// When such keys have no JWT algorithm.
    pub fn new(typ: &str, key_id: &str, kind: KeyKind) -> Result<Self, JwtError> {
        let alg = JwtAlg::for_key(kind).ok_or(SignError::Unsupported {
            kind,
            algorithm: SignatureAlgorithm::default_for(kind),
        })?;
        let members = [("alg", alg.as_str()), ("kid", key_id), ("typ", typ)];
        let members = members.map(|(name, value)| (name.to_owned(), Value::from(value)));
        let header = json::to_sorted_string(&Map::from_iter(members));
        let mut encoded = URL_SAFE_NO_PAD.encode(header);
        encoded.push('.');
        Ok(Self { alg, encoded })
    }
}

/// Signs `claims` as a compact JWS with the header `alg`, `kid`, `typ` = `JWT`. Members are
/// sorted, as in SPIRE's tokens.
///
/// # Errors
/// When the signer fails or its key has no JWT algorithm.
pub async fn sign(
    claims: &Map<String, Value>,
    key_id: &str,
    signer: &dyn Signer,
) -> Result<String, JwtError> {
    sign_as("JWT", claims, key_id, signer).await
}

/// As [`sign`], with another `typ`.
///
/// # Errors
/// As [`sign`].
pub async fn sign_as(
    typ: &str,
    claims: &Map<String, Value>,
    key_id: &str,
    signer: &dyn Signer,
) -> Result<String, JwtError> {
    let header = Header::new(typ, key_id, signer.public_key().kind())?;
    sign_under(&header, claims, signer).await
}

/// As [`sign`], under a header that was made before for this signer's kind of key.
///
/// # Errors
/// As [`sign`].
pub async fn sign_under(
    header: &Header,
    claims: &Map<String, Value>,
    signer: &dyn Signer,
) -> Result<String, JwtError> {
    let claims = json::to_sorted_string(claims);
    // With room for the signature of an elliptic key.
    let mut token = String::with_capacity(header.encoded.len() + claims.len() * 4 / 3 + 192);
    token.push_str(&header.encoded);
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let mut signature = signer.sign(header.alg.signature_algorithm(), token.as_bytes()).await?;
    if let Some(len) = header.alg.coordinate_len() {
        signature = ecdsa::raw_from_der(&signature, len)
            .ok_or_else(|| SignError::Failed("malformed ECDSA signature".into()))?;
    }
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// Verifies a JWT-SVID: form, algorithm, signature by a key of the subject's trust domain, then
/// audience and times at `now`, with `leeway` (see [`LEEWAY`]) in both directions.
///
/// # Errors
/// The first check that fails.
pub fn verify_svid(
    token: &str,
    keys: &dyn JwtKeySource,
    audience: &str,
    now: SystemTime,
    leeway: Duration,
) -> Result<ValidJwt, JwtError> {
    let token = UnverifiedJwt::parse(token)?;
    let key_id = token.key_id().filter(|id| !id.is_empty()).ok_or(JwtError::MissingKeyId)?;
    if !matches!(token.typ(), None | Some("" | "JWT" | "JOSE")) {
        return Err(JwtError::Type);
    }
    token.check_types()?;
    let times = token.times()?;
    let subject = token.subject()?;
    let expiry = times.expiry.ok_or(JwtError::MissingExpiry)?;
    let spiffe_id = SpiffeId::parse(subject).map_err(JwtError::Subject)?;

    let key = keys.jwt_key(&spiffe_id.trust_domain(), key_id)?;
    token.verify_signature(&key)?;

    let audiences = token.audience()?;
    if !audiences.iter().any(|it| it == audience) {
        return Err(audience_error(audience, &audiences));
    }
    let early = now.checked_sub(leeway).unwrap_or(SystemTime::UNIX_EPOCH);
    let late = now.checked_add(leeway).unwrap_or(now);
    if times.not_before.is_some_and(|not_before| late < token::to_time(not_before)) {
        return Err(JwtError::NotYetValid);
    }
    let expires_at = token::to_time(expiry);
    if early > expires_at {
        return Err(JwtError::Expired);
    }
    if times.issued_at.is_some_and(|issued_at| late < token::to_time(issued_at)) {
        return Err(JwtError::IssuedInFuture);
    }
    Ok(ValidJwt { spiffe_id, claims: token.into_claims(), audience: audiences, expires_at })
}

/// Reads a token without believing it: for looking at one's own.
///
/// # Errors
/// When it is not a token of an allowed algorithm.
pub fn parse_unverified(token: &str) -> Result<UnverifiedJwt, JwtError> {
    UnverifiedJwt::parse(token)
}

fn audience_error(expected: &str, found: &[String]) -> JwtError {
    let cut = |text: &str| text.chars().take(100).collect::<String>();
    let shown: Vec<String> = found.iter().take(8).map(|it| format!("{:?}", cut(it))).collect();
    let more = if found.len() > shown.len() { " ..." } else { "" };
    JwtError::Audience { expected: cut(expected), found: format!("[{}{more}]", shown.join(" ")) }
}

#[cfg(test)]
mod tests;
