use super::wire::Reader;
use super::{SshError, shown};
use crate::digest::Sha256;
use crate::keys::KeyKind;
use crate::{external, keys};

/// The kinds of key. Those of security keys sign for people, here at most as an authority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
    SkP256,
    SkEd25519,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Rsa,
        Self::P256,
        Self::P384,
        Self::P521,
        Self::Ed25519,
        Self::SkP256,
        Self::SkEd25519,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "ssh-rsa",
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::P384 => "ecdsa-sha2-nistp384",
            Self::P521 => "ecdsa-sha2-nistp521",
            Self::Ed25519 => "ssh-ed25519",
            Self::SkP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
        }
    }

    pub(super) const fn certificate_name(self) -> &'static str {
        match self {
            Self::Rsa => "ssh-rsa-cert-v01@openssh.com",
            Self::P256 => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            Self::P384 => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            Self::P521 => "ecdsa-sha2-nistp521-cert-v01@openssh.com",
            Self::Ed25519 => "ssh-ed25519-cert-v01@openssh.com",
            Self::SkP256 => "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
            Self::SkEd25519 => "sk-ssh-ed25519-cert-v01@openssh.com",
        }
    }

    fn of_key(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    pub(super) fn of_certificate(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.certificate_name().as_bytes() == name)
    }
}

/// A public key that was checked.
#[derive(Clone, Debug)]
pub struct PublicKey {
    blob: Box<[u8]>,
    kind: Kind,
    key: keys::PublicKey,
    /// What a security key signs for; else empty.
    application: Box<[u8]>,
}

impl PublicKey {
    /// Reads a blob of a bare key.
    ///
    /// # Errors
    /// When it is none, or not supported.
    pub fn parse(blob: &[u8]) -> Result<Self, SshError> {
        let mut fields = Reader::new(blob);
        let name = fields.string()?;
        let kind = Kind::of_key(name).ok_or_else(|| SshError::Algorithm(shown(name)))?;
        let key = Self::read(kind, &mut fields)?;
        if fields.is_empty() {
            Ok(Self { blob: blob.into(), ..key })
        } else {
            Err(SshError::Trailing)
        }
    }

    /// Reads the fields after the name; the blob is put together of them.
    pub(super) fn read(kind: Kind, fields: &mut Reader<'_>) -> Result<Self, SshError> {
        let start = fields.rest();
        let (key, application) = match kind {
            Kind::Rsa => {
                let (exponent, modulus) = (fields.number()?, fields.number()?);
                if exponent.len() > 3 {
                    return Err(SshError::Key("exponent too large".to_owned()));
                }
                (external::rsa_public_key(modulus, exponent), &[][..])
            }
            Kind::P256 | Kind::SkP256 => (point(fields, KeyKind::P256, b"nistp256")?, &[][..]),
            Kind::P384 => (point(fields, KeyKind::P384, b"nistp384")?, &[][..]),
            Kind::P521 => (point(fields, KeyKind::P521, b"nistp521")?, &[][..]),
            Kind::Ed25519 | Kind::SkEd25519 => {
                (keys::PublicKey::from_ed25519(fields.string()?), &[][..])
            }
        };
        let key = key.map_err(|error| SshError::Key(error.to_string()))?;
        let application = match kind {
            Kind::SkP256 | Kind::SkEd25519 => fields.string()?,
            _ => application,
        };
        let read = &start[..start.len() - fields.rest().len()];
        let mut blob = Vec::with_capacity(read.len() + 48);
        super::wire::put_string(&mut blob, kind.name().as_bytes());
        blob.extend_from_slice(read);
        Ok(Self { blob: blob.into(), kind, key, application: application.into() })
    }

    /// The encoding.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The name of the kind of key, such as `ssh-ed25519`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.kind.name()
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &keys::PublicKey {
        &self.key
    }

    /// SHA-256 over the encoding, which is OpenSSH's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::of(&self.blob)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn application(&self) -> &[u8] {
        &self.application
    }
}

fn point(
    fields: &mut Reader<'_>,
    kind: KeyKind,
    curve: &[u8],
) -> Result<Result<keys::PublicKey, keys::KeyError>, SshError> {
    if fields.string()? != curve {
        return Err(SshError::Curve);
    }
    Ok(keys::PublicKey::from_ec_point(kind, fields.string()?))
}
