use aws_lc_rs::digest::{self, SHA256};

use super::key::Kind;
use super::wire::{self, Reader};
use super::{PublicKey, SshError, shown};
use crate::keys::{KeyKind, PrivateKey, SignError, SignatureAlgorithm};

/// The longest part of a signature that is looked at, in bytes.
const MAX_PART: usize = 2048;
/// Whoever held the security key touched it.
const USER_PRESENT: u8 = 1;

/// A signature of an SSH key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of how it was made.
    pub format: String,
    /// The signature itself.
    pub blob: Vec<u8>,
    /// What follows it, for security keys.
    pub rest: Vec<u8>,
}

/// What a signature is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// A certificate, whose content an enemy may have had a say in.
    Certificate,
    /// A challenge that the verifier made up.
    Challenge,
}

impl Signature {
    /// Reads a signature as it stands in a certificate.
    pub(super) fn parse(text: &[u8]) -> Result<Self, SshError> {
        let read = || {
            let mut fields = Reader::new(text);
            let (format, blob) = (fields.string()?, fields.string()?);
            Ok::<_, SshError>((format, blob, fields.rest()))
        };
        let (format, blob, rest) = read().map_err(|_| SshError::SignatureForm)?;
        let is_sk = format.starts_with(b"sk-");
        if format.len() > 64 || blob.len() > MAX_PART || (!is_sk && !rest.is_empty()) {
            return Err(SshError::SignatureForm);
        }
        let format = std::str::from_utf8(format).map_err(|_| SshError::SignatureForm)?;
        Ok(Self { format: format.to_owned(), blob: blob.to_vec(), rest: rest.to_vec() })
    }
}

impl PublicKey {
    /// Checks a signature over a challenge that the caller made up. RSA over SHA-1 is taken here
    /// only, because upstream's agents sign so: a collision is of no use when half of what is
    /// signed is the verifier's own random choice.
    ///
    /// # Errors
    /// When the signature is another's.
    pub fn verify_challenge(&self, message: &[u8], signature: &Signature) -> Result<(), SshError> {
        self.verify(Over::Challenge, message, signature)
    }

    pub(super) fn verify(
        &self,
        over: Over,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SshError> {
        let format = signature.format.as_str();
        if signature.blob.len() > MAX_PART || signature.rest.len() > MAX_PART {
            return Err(SshError::SignatureForm);
        }
        let other = || SshError::SignatureType(shown(format.as_bytes()), self.kind().name());
        match self.kind() {
            Kind::Rsa => {
                // A certificate must have one encoding.
                let blob = match over {
                    Over::Challenge => self.padded(&signature.blob),
                    Over::Certificate => signature.blob.clone(),
                };
                let checked = match format {
                    "rsa-sha2-256" => {
                        self.key().verify(SignatureAlgorithm::RsaPkcs1Sha256, message, &blob)
                    }
                    "rsa-sha2-512" => {
                        self.key().verify(SignatureAlgorithm::RsaPkcs1Sha512, message, &blob)
                    }
                    "ssh-rsa" if over == Over::Challenge => {
                        self.key().verify_rsa_over_sha1(message, &blob)
                    }
                    _ => return Err(other()),
                };
                checked.map_err(|_| SshError::RsaSignature)
            }
            kind if format != kind.name() => Err(other()),
            Kind::P256 | Kind::P384 | Kind::P521 => self.plain(message, &signature.blob),
            Kind::Ed25519 => self.plain(message, &signature.blob),
            Kind::SkP256 | Kind::SkEd25519 => {
                let message = self.said_by_security_key(over, message, &signature.rest)?;
                self.plain(&message, &signature.blob)
            }
        }
    }

    fn plain(&self, message: &[u8], blob: &[u8]) -> Result<(), SshError> {
        let algorithm = SignatureAlgorithm::default_for(self.key().kind());
        let der;
        let signature = match algorithm {
            SignatureAlgorithm::Ed25519 => blob,
            _ => {
                let mut numbers = Reader::new(blob);
                let (r, s) = (numbers.number()?, numbers.number()?);
                if !numbers.is_empty() || r.len() > 66 || s.len() > 66 {
                    return Err(SshError::Signature);
                }
                der = crate::keys::ecdsa_der(r, s);
                &der
            }
        };
        self.key().verify(algorithm, message, signature).map_err(|_| SshError::Signature)
    }

    /// The other signature that everyone can make of an ECDSA signature, in its encoding.
    pub(super) fn in_other_form(&self, signature: &Signature) -> Option<Vec<u8>> {
        let mut numbers = Reader::new(&signature.blob);
        let (r, s) = (numbers.number().ok()?, numbers.number().ok()?);
        let other = crate::keys::other_s(self.key().kind(), s)?;
        let mut blob = Vec::with_capacity(signature.blob.len() + 2);
        wire::put_number(&mut blob, r);
        wire::put_number(&mut blob, &other);
        let mut out = Vec::with_capacity(blob.len() + 64);
        wire::put_string(&mut out, signature.format.as_bytes());
        wire::put_string(&mut out, &blob);
        out.extend_from_slice(&signature.rest);
        Some(out)
    }

    /// Some leave out leading zeros (RFC 8332 §3).
    fn padded(&self, blob: &[u8]) -> Vec<u8> {
        let length = match self.key().kind() {
            KeyKind::Rsa(bits) => usize::from(bits).div_ceil(8),
            _ => 0,
        };
        let mut padded = vec![0; length.saturating_sub(blob.len())];
        padded.extend_from_slice(blob);
        padded
    }

    /// What a security key signs in place of a message (PROTOCOL.u2f).
    fn said_by_security_key(
        &self,
        over: Over,
        message: &[u8],
        rest: &[u8],
    ) -> Result<Vec<u8>, SshError> {
        let mut fields = Reader::new(rest);
        let flags = fields.u8()?;
        let counter = fields.u32()?;
        // As in OpenSSH, it is no matter whether somebody was there when a certificate was signed.
        let present = flags & USER_PRESENT != 0 || over == Over::Certificate;
        if !fields.is_empty() || !present {
            return Err(SshError::Signature);
        }
        let application = digest::digest(&SHA256, self.application());
        let message = digest::digest(&SHA256, message);
        let counter = counter.to_be_bytes();
        Ok([application.as_ref(), &[flags], &counter, message.as_ref()].concat())
    }
}

/// Signs `message` with a host key.
///
/// # Errors
/// When the key cannot.
pub fn sign(key: &PrivateKey, message: &[u8]) -> Result<Signature, SignError> {
    let kind = key.public_key().kind();
    let (format, algorithm) = match kind {
        KeyKind::Rsa(_) => ("rsa-sha2-512", SignatureAlgorithm::RsaPkcs1Sha512),
        KeyKind::P256 => (Kind::P256.name(), SignatureAlgorithm::EcdsaSha256),
        KeyKind::P384 => (Kind::P384.name(), SignatureAlgorithm::EcdsaSha384),
        KeyKind::P521 => (Kind::P521.name(), SignatureAlgorithm::EcdsaSha512),
        KeyKind::Ed25519 => (Kind::Ed25519.name(), SignatureAlgorithm::Ed25519),
    };
    let made = key.sign(algorithm, message)?;
    let blob = match kind {
        KeyKind::Rsa(_) | KeyKind::Ed25519 => made,
        _ => {
            let failed = || SignError::Failed("signing failed".into());
            let (r, s) = crate::keys::ecdsa_numbers(&made).ok_or_else(failed)?;
            let mut blob = Vec::with_capacity(160);
            wire::put_number(&mut blob, &r);
            wire::put_number(&mut blob, &s);
            blob
        }
    };
    Ok(Signature { format: format.to_owned(), blob, rest: Vec::new() })
}
