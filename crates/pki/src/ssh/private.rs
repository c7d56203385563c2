use zeroize::Zeroizing;

use super::SshError;
use super::key::Kind;
use super::wire::Reader;
use crate::keys::{KeyError, KeyKind, PrivateKey, RsaNumbers};
use crate::pem;

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// The longest text that is looked at, in bytes: a key of RSA with 8192 bits has 6.4 KiB.
const MAX_TEXT: usize = 64 * 1024;

/// Reads a private key without a passphrase: in OpenSSH's own form, or as PKCS#1, PKCS#8 or SEC1.
///
/// # Errors
/// When it is none, or not supported.
pub fn private_key(text: &str) -> Result<PrivateKey, SshError> {
    if text.len() > MAX_TEXT {
        return Err(SshError::TooLarge);
    }
    let block = pem::blocks(text).next().ok_or(SshError::NoKey)?.map_err(|_| SshError::NoKey)?;
    let contents = Zeroizing::new(block.contents);
    if block.label == "OPENSSH PRIVATE KEY" {
        return openssh(&contents);
    }
    // The headers of PEM say so.
    if text.contains("ENCRYPTED") {
        return Err(SshError::Passphrase);
    }
    PrivateKey::from_pem(text).map_err(|error| SshError::Key(error.to_string()))
}

fn openssh(contents: &[u8]) -> Result<PrivateKey, SshError> {
    let fields = contents.strip_prefix(MAGIC).ok_or(SshError::Private)?;
    let mut fields = Reader::new(fields);
    let (cipher, kdf, _options) = (fields.string()?, fields.string()?, fields.string()?);
    if fields.u32()? != 1 {
        return Err(SshError::Private);
    }
    let _public = fields.string()?;
    let secret = fields.string()?;
    if cipher != b"none" || kdf != b"none" {
        return Err(SshError::Passphrase);
    }
    let mut secret = Reader::new(secret);
    if secret.u32()? != secret.u32()? {
        return Err(SshError::Private);
    }
    let name = secret.string()?;
    let key = key(name, &mut secret)?;
    let _comment = secret.string()?;
    let pads = secret.rest().iter().zip(1_u8..).all(|(byte, count)| *byte == count);
    if pads { Ok(key) } else { Err(SshError::Private) }
}

fn key(name: &[u8], secret: &mut Reader<'_>) -> Result<PrivateKey, SshError> {
    let refused = |error: KeyError| SshError::Key(error.to_string());
    let is = |kind: Kind| name == kind.name().as_bytes();
    if is(Kind::Rsa) {
        let numbers = RsaNumbers {
            modulus: secret.number()?,
            public_exponent: secret.number()?,
            private_exponent: secret.number()?,
            coefficient: secret.number()?,
            prime1: secret.number()?,
            prime2: secret.number()?,
        };
        return PrivateKey::from_rsa_numbers(&numbers).map_err(refused);
    }
    if is(Kind::Ed25519) {
        let (public, pair) = (secret.string()?, secret.string()?);
        let seed = pair.get(..32).filter(|_| pair.len() == 64).ok_or(SshError::Private)?;
        return PrivateKey::from_ed25519_seed(seed, public).map_err(refused);
    }
    let curves = [
        (Kind::P256, KeyKind::P256, &b"nistp256"[..]),
        (Kind::P384, KeyKind::P384, b"nistp384"),
        (Kind::P521, KeyKind::P521, b"nistp521"),
    ];
    let (_, kind, curve) = curves
        .into_iter()
        .find(|(kind, ..)| is(*kind))
        .ok_or_else(|| SshError::Algorithm(super::shown(name)))?;
    if secret.string()? != curve {
        return Err(SshError::Curve);
    }
    let (point, scalar) = (secret.string()?, secret.number()?);
    PrivateKey::from_ec_numbers(kind, scalar, point).map_err(refused)
}
