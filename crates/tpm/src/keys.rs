//! The keys that every TPM has: the storage root key and the endorsement keys.

use std::path::Path;

use crate::commands::{Loaded, Wrapped};
use crate::session::{Auth, Handle, Tpm, TpmError};
use crate::spec::{
    NV_EK_CERT_P256, NV_EK_CERT_RSA, NV_EK_NONCE_P256, NV_EK_NONCE_RSA, NV_EK_TEMPLATE_P256,
    NV_EK_TEMPLATE_RSA, PERSISTENT_EK_P256, PERSISTENT_EK_RSA, RH_ENDORSEMENT, RH_OWNER,
};
use crate::template::{self, KeyShape};

/// The kinds of endorsement keys that TPMs are shipped with certificates for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EkKind {
    /// RSA-2048 (template L-1).
    Rsa2048,
    /// EC P-256 (template L-2).
    P256,
}

impl EkKind {
    /// All of them, the most usual first.
    pub const ALL: [Self; 2] = [Self::Rsa2048, Self::P256];

    /// The name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa-2048",
            Self::P256 => "ec-p256",
        }
    }

    /// Where its certificate is.
    #[must_use]
    pub const fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => NV_EK_CERT_RSA,
            Self::P256 => NV_EK_CERT_P256,
        }
    }
}

/// Which key is the parent of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    /// The storage root key, derived each time: on P-256, or RSA-2048 where the TPM has no curves.
    Srk(KeyShape),
    /// A key under a persistent handle.
    Persistent(u32),
}

impl Tpm {
    /// The parent of our keys.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn parent(&mut self, parent: Parent, owner: Auth<'_>) -> Result<Loaded, TpmError> {
        match parent {
            Parent::Srk(shape) => self.create_primary(RH_OWNER, owner, &template::srk(shape)),
            Parent::Persistent(handle) => self.read_public(Handle(handle)),
        }
    }

    /// The parent that a TPM is to have for new keys.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn best_srk(&mut self) -> Result<Parent, TpmError> {
        let curves = self.curves()?;
        let has_p256 = curves.contains(&crate::spec::CURVE_P256);
        Ok(Parent::Srk(if has_p256 { KeyShape::P256 } else { KeyShape::Rsa2048 }))
    }

    /// Loads a wrapped key of `parent`, which does not stay.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn load_under(
        &mut self,
        parent: Parent,
        owner: Auth<'_>,
        key: &Wrapped,
    ) -> Result<Loaded, TpmError> {
        let above = self.parent(parent, owner)?;
        let loaded = self.load(above.handle, Auth::NONE, key)?;
        self.leave(parent, above.handle)?;
        Ok(loaded)
    }

    /// Flushes a parent, unless it is the TPM's to keep.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn leave(&mut self, parent: Parent, handle: Handle) -> Result<(), TpmError> {
        match parent {
            Parent::Srk(_) => self.flush(handle),
            Parent::Persistent(_) => Ok(()),
        }
    }

    /// An endorsement key: the one that is kept where provisioning puts it, if it is that; else
    /// by the template in NV, else by TCG's with the nonce that is in NV.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn ek(
        &mut self,
        kind: EkKind,
        endorsement: Auth<'_>,
        owner: Auth<'_>,
    ) -> Result<Loaded, TpmError> {
        let (template, nonce, kept, shape) = match kind {
            EkKind::Rsa2048 => {
                (NV_EK_TEMPLATE_RSA, NV_EK_NONCE_RSA, PERSISTENT_EK_RSA, KeyShape::Rsa2048)
            }
            EkKind::P256 => {
                (NV_EK_TEMPLATE_P256, NV_EK_NONCE_P256, PERSISTENT_EK_P256, KeyShape::P256)
            }
        };
        if let Some(template) = self.nv_read(template, owner)? {
            return self.create_primary(RH_ENDORSEMENT, endorsement, &template);
        }
        let nonce = self.nv_read(nonce, owner)?.unwrap_or_default();
        let template = template::ek(shape, &nonce);
        match self.read_public(Handle(kept)) {
            Ok(found) if same_kind(&found.public, &template) => return Ok(found),
            Ok(_) => {}
            Err(error) if error.refusal().is_some_and(|code| code.is_absent()) => {}
            Err(error) => return Err(error),
        }
        self.create_primary(RH_ENDORSEMENT, endorsement, &template)
    }

    /// Flushes an endorsement key, unless it is the TPM's to keep.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn leave_ek(&mut self, ek: &Loaded) -> Result<(), TpmError> {
        match ek.handle.0 {
            PERSISTENT_EK_RSA | PERSISTENT_EK_P256 => Ok(()),
            _ => self.flush(ek.handle),
        }
    }

    /// The certificate of an endorsement key, DER, if the TPM has it.
    ///
    /// # Errors
    /// [`TpmError`]; also when what is at its place is no certificate.
    pub fn ek_certificate(
        &mut self,
        kind: EkKind,
        owner: Auth<'_>,
    ) -> Result<Option<Vec<u8>>, TpmError> {
        let index = kind.certificate_index();
        let Some(stored) = self.nv_read(index, owner)? else { return Ok(None) };
        let whole = der_len(&stored).and_then(|len| stored.get(..len));
        let malformed = || TpmError::Unfit(format!("NV index 0x{index:08x} has no certificate"));
        Ok(Some(whole.ok_or_else(malformed)?.to_vec()))
    }
}

/// Whether a public area is what the template makes: all but the key itself is the same.
fn same_kind(public: &[u8], template: &[u8]) -> bool {
    // Type, name algorithm, attributes, policy (32 bytes), cipher, scheme, and size or curve.
    const COMMON: usize = 2 + 2 + 4 + 34 + 6 + 2 + 2;
    public.len() > COMMON && public.get(..COMMON) == template.get(..COMMON)
}

/// How long the DER SEQUENCE at the front is; what follows is the index's padding.
fn der_len(bytes: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = bytes else { return None };
    match usize::from(*first) {
        short @ 0..=0x7f => Some(2 + short),
        0x81 => Some(3 + usize::from(*rest.first()?)),
        0x82 => {
            let len = u16::from_be_bytes(*rest.first_chunk()?);
            Some(4 + usize::from(len))
        }
        _ => None,
    }
}

/// Where the TPM is: `configured`, or the only one that the machine has.
///
/// # Errors
/// When none was configured and there is none, or several.
pub fn find(configured: Option<&Path>) -> Result<std::path::PathBuf, crate::AutodetectError> {
    configured.map_or_else(|| crate::autodetect(Path::new("/dev")), |path| Ok(path.to_owned()))
}
