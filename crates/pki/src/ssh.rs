//! OpenSSH's host certificates (PROTOCOL.certkeys), its public and private keys, and their
//! signatures: what attestation by an SSH host key takes, and no more.
//!
//! Everything is read from bounded bytes without recursion. The texts of errors are those of Go's
//! `x/crypto/ssh`, since upstream's users look for them.

mod certificate;
mod key;
mod private;
mod signature;
mod wire;

use thiserror::Error;

pub use certificate::{Certificate, HOST, Infinity, Refusal};
pub use key::PublicKey;
pub use private::private_key;
pub use signature::{Signature, sign};

/// The longest key or certificate that is looked at, in bytes.
pub const MAX_BLOB_LEN: usize = 64 * 1024;

/// Why bytes or a text are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SshError {
    /// Longer than [`MAX_BLOB_LEN`].
    #[error("ssh: key is too large")]
    TooLarge,
    /// A field is missing, or runs over the end.
    #[error("ssh: short read")]
    Short,
    /// Something follows.
    #[error("ssh: trailing junk in public key")]
    Trailing,
    /// Something follows a certificate.
    #[error("ssh: parse error in message type 0")]
    Form,
    /// A kind of key that is not supported; holds the beginning of its name.
    #[error("ssh: unknown key algorithm: {0}")]
    Algorithm(String),
    /// The curve is not the one that the name says.
    #[error("ssh: unsupported curve")]
    Curve,
    /// The numbers do not make a supported key; holds the reason.
    #[error("ssh: invalid key: {0}")]
    Key(String),
    /// A certificate where a key belongs.
    #[error("ssh: the signature key type {0:?} is invalid for certificates")]
    Nested(String),
    /// Options that are not in order, or malformed.
    #[error("ssh: certificate options are not in lexical order")]
    Options,
    /// The signature is malformed.
    #[error("ssh: signature parse error")]
    SignatureForm,
    /// A line of text holds no key.
    #[error("ssh: no key found")]
    NoKey,
    /// A line of text names another kind of key than it holds.
    #[error(
        "ssh: authorized keys key type mismatch: human-readable type {0:?}, encoded type {1:?}"
    )]
    Mismatch(String, &'static str),
    /// A private key under a passphrase.
    #[error("ssh: this private key is passphrase protected")]
    Passphrase,
    /// A private key that cannot be read.
    #[error("ssh: malformed OpenSSH key")]
    Private,
    /// A kind of signature that the key does not make.
    #[error("ssh: signature type {0} for key type {1}")]
    SignatureType(String, &'static str),
    /// The signature is another's.
    #[error("ssh: signature did not verify")]
    Signature,
    /// As [`SshError::Signature`], of RSA.
    #[error("crypto/rsa: verification error")]
    RsaSignature,
}

/// What a public key blob may be.
#[derive(Clone, Debug)]
pub enum Blob {
    /// A bare key.
    Key(PublicKey),
    /// A key with a certificate.
    Certificate(Box<Certificate>),
}

impl Blob {
    /// Reads a blob.
    ///
    /// # Errors
    /// When it is neither a supported key nor a certificate of one.
    pub fn parse(blob: &[u8]) -> Result<Self, SshError> {
        if blob.len() > MAX_BLOB_LEN {
            return Err(SshError::TooLarge);
        }
        let mut fields = wire::Reader::new(blob);
        let name = fields.string()?;
        match key::Kind::of_certificate(name) {
            Some(kind) => Certificate::read(blob, kind, fields)
                .map(|certificate| Self::Certificate(Box::new(certificate))),
            None => PublicKey::parse(blob).map(Self::Key),
        }
    }

    /// Reads the first key of a text in the form of `authorized_keys` and `*.pub` files: comments
    /// and empty lines are passed over, options before the key as well.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse_text(text: &str) -> Result<Self, SshError> {
        if text.len() > 4 * MAX_BLOB_LEN {
            return Err(SshError::TooLarge);
        }
        let mut why = SshError::NoKey;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            for start in [Some(line), after_options(line)].into_iter().flatten() {
                match key_of_line(start) {
                    Ok(found) => return Ok(found),
                    Err(SshError::NoKey) => {}
                    Err(error) => why = error,
                }
            }
        }
        Err(why)
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::Key(key) => key.kind().name(),
            Self::Certificate(certificate) => certificate.key().kind().certificate_name(),
        }
    }
}

/// The rest of a line after options, which may have quoted blanks.
fn after_options(line: &str) -> Option<&str> {
    let mut quoted = false;
    let mut escaped = false;
    let blank = line.find(|c: char| {
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\';
        !quoted && (c == ' ' || c == '\t')
    })?;
    Some(line[blank..].trim_start())
}

fn key_of_line(line: &str) -> Result<Blob, SshError> {
    use base64::Engine as _;
    let (name, rest) = line.split_once([' ', '\t']).ok_or(SshError::NoKey)?;
    let encoded = rest.split_whitespace().next().ok_or(SshError::NoKey)?;
    let blob = base64::engine::general_purpose::STANDARD.decode(encoded);
    let found = Blob::parse(&blob.map_err(|_| SshError::NoKey)?)?;
    if name == found.type_name() {
        Ok(found)
    } else {
        Err(SshError::Mismatch(shown(name.as_bytes()), found.type_name()))
    }
}

/// The beginning of something that a stranger said, without what would upset a terminal.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
