//! A key of ours: made in a TPM, kept outside of it encrypted, signing inside.

use std::sync::Arc;
use std::time::Duration;

use steeple_pki::{KeyKind, KeyType, PublicKey, SignatureAlgorithm, external};
use zeroize::Zeroizing;

use crate::Access;
use crate::commands::{Loaded, Wrapped};
use crate::keys::Parent;
use crate::session::{Auth, Tpm, TpmError};
use crate::spec::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, ALG_SHA256, ALG_SHA384, ALG_SHA512};
use crate::template::{self, KeyShape};
use crate::verify::{Public, Signature};

/// A key that signs in the TPM which made it, and in no other.
pub struct Key {
    access: Arc<Access>,
    parent: Parent,
    owner: Arc<Zeroizing<Vec<u8>>>,
    wrapped: Wrapped,
    public_key: PublicKey,
}

/// Where keys are made, and below which key.
#[derive(Clone)]
pub struct Place {
    /// The TPM.
    pub access: Arc<Access>,
    /// The parent.
    pub parent: Parent,
    /// The password of the storage hierarchy, without which the SRK cannot be derived.
    pub owner: Arc<Zeroizing<Vec<u8>>>,
}

impl Key {
    /// Makes a key, and has it prove that it signs.
    ///
    /// # Errors
    /// [`TpmError`]; also for a kind that TPMs do not have.
    pub fn make(tpm: &mut Tpm, place: &Place, kind: KeyType) -> Result<Self, TpmError> {
        let shape = match kind {
            KeyType::EcP256 => KeyShape::P256,
            KeyType::EcP384 => KeyShape::P384,
            KeyType::Rsa2048 => KeyShape::Rsa2048,
            KeyType::Rsa4096 => return Err(unfit("TPMs do not make keys of type rsa-4096")),
        };
        let parent = tpm.parent(place.parent, Auth::Password(&place.owner))?;
        let wrapped = tpm.create(parent.handle, Auth::NONE, &template::signer(shape))?;
        let loaded = tpm.load(parent.handle, Auth::NONE, &wrapped)?;
        tpm.leave(place.parent, parent.handle)?;
        let key = Self::wrapped(place, wrapped)?;
        if key.public_key.key_type() != Some(kind) {
            return Err(unfit("the TPM made a key of another kind than asked for"));
        }
        let algorithm = SignatureAlgorithm::default_for(key.public_key.kind());
        let signature = key.sign_loaded(tpm, &loaded, algorithm, PROOF)?;
        if key.public_key.verify(algorithm, PROOF, &signature).is_err() {
            return Err(unfit("the TPM made a key whose signatures do not verify"));
        }
        tpm.flush(loaded.handle)?;
        Ok(key)
    }

    /// A key that was made earlier. Whether the TPM at that place is the one that made it, shows
    /// when it is loaded.
    ///
    /// # Errors
    /// When its public area is not that of a key as we make them.
    pub fn wrapped(place: &Place, wrapped: Wrapped) -> Result<Self, TpmError> {
        let public = Public::parse(&wrapped.public).map_err(|error| unfit(error.to_string()))?;
        let attributes = public.attributes();
        if !attributes.resident() || !attributes.sign() || attributes.restricted() {
            return Err(unfit("the key's attributes are not those of a signing key of this TPM"));
        }
        let public_key = public.key().map_err(|error| unfit(error.to_string()))?;
        let Place { access, parent, owner } = place.clone();
        Ok(Self { access, parent, owner, wrapped, public_key })
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The key as it is kept outside.
    #[must_use]
    pub fn as_wrapped(&self) -> &Wrapped {
        &self.wrapped
    }

    /// The TPM that it signs in.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Loads it, for a conversation.
    ///
    /// # Errors
    /// [`TpmError`]; one that [is foreign](crate::ResponseCode::is_foreign) when another TPM made
    /// it.
    pub fn load(&self, tpm: &mut Tpm) -> Result<Loaded, TpmError> {
        tpm.load_under(self.parent, Auth::Password(&self.owner), &self.wrapped)
    }

    /// Whether it can sign so.
    #[must_use]
    pub fn fits(&self, algorithm: SignatureAlgorithm) -> bool {
        scheme(self.public_key.kind(), algorithm).is_some()
    }

    /// Signs `message`. ECDSA signatures are in ASN.1 form.
    ///
    /// # Errors
    /// [`TpmError`].
    pub async fn sign(
        self: &Arc<Self>,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let (key, message) = (Arc::clone(self), message.to_vec());
        let sign = move |tpm: &mut Tpm| {
            let loaded = key.load(tpm)?;
            key.sign_loaded(tpm, &loaded, algorithm, &message)
        };
        self.access.run(SIGN_PATIENCE, sign).await
    }

    fn sign_loaded(
        &self,
        tpm: &mut Tpm,
        loaded: &Loaded,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let kind = self.public_key.kind();
        let cannot = || unfit(format!("a key of kind {kind} does not sign so"));
        let scheme = scheme(kind, algorithm).ok_or_else(cannot)?;
        let digest = external::digest(algorithm, message).ok_or_else(cannot)?;
        let signature = tpm.sign(loaded.handle, Auth::NONE, scheme, &digest)?;
        let signature = Signature::parse(&signature).map_err(|error| unfit(error.to_string()))?;
        signature.to_asn1(kind).map_err(|error| unfit(error.to_string()))
    }
}

/// The scheme and hash that make such a signature.
fn scheme(kind: KeyKind, algorithm: SignatureAlgorithm) -> Option<(u16, u16)> {
    use SignatureAlgorithm as Alg;
    Some(match (kind, algorithm) {
        (KeyKind::P256, Alg::EcdsaSha256) => (ALG_ECDSA, ALG_SHA256),
        (KeyKind::P384, Alg::EcdsaSha384) => (ALG_ECDSA, ALG_SHA384),
        (KeyKind::Rsa(_), Alg::RsaPkcs1Sha256) => (ALG_RSASSA, ALG_SHA256),
        (KeyKind::Rsa(_), Alg::RsaPkcs1Sha384) => (ALG_RSASSA, ALG_SHA384),
        (KeyKind::Rsa(_), Alg::RsaPkcs1Sha512) => (ALG_RSASSA, ALG_SHA512),
        (KeyKind::Rsa(_), Alg::RsaPssSha256) => (ALG_RSAPSS, ALG_SHA256),
        (KeyKind::Rsa(_), Alg::RsaPssSha384) => (ALG_RSAPSS, ALG_SHA384),
        (KeyKind::Rsa(_), Alg::RsaPssSha512) => (ALG_RSAPSS, ALG_SHA512),
        _ => return None,
    })
}

fn unfit(text: impl Into<String>) -> TpmError {
    TpmError::Unfit(text.into())
}

/// What a new key signs to show that it can.
const PROOF: &[u8] = b"steeple: a new key in a TPM";
/// Until a signature is made; discrete TPMs take a second.
const SIGN_PATIENCE: Duration = Duration::from_secs(15);
