//! JWS signatures (RFC 7515, RFC 7518 section 3) beside those of JWTs.

use crate::jwt::ecdsa;
use crate::keys::{KeyKind, SignError, SignatureAlgorithm, Signer};

/// Signs `input`, as ES256, ES384 or RS256 by the kind of key, in the form of JWS.
///
/// # Errors
/// When the signer fails or its key is of another kind.
pub async fn sign(signer: &dyn Signer, input: &[u8]) -> Result<Vec<u8>, SignError> {
    let kind = signer.public_key().kind();
    let algorithm = SignatureAlgorithm::default_for(kind);
    let len = match kind {
        KeyKind::P256 => 32,
        KeyKind::P384 => 48,
        KeyKind::Rsa(_) => return signer.sign(algorithm, input).await,
        _ => return Err(SignError::Unsupported { kind, algorithm }),
    };
    let signature = signer.sign(algorithm, input).await?;
    ecdsa::raw_from_der(&signature, len)
        .ok_or_else(|| SignError::Failed("malformed ECDSA signature".into()))
}
