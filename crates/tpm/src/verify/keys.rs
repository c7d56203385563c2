//! The keys of an attestation, each checked for what the proof takes of it.

use steeple_pki::x509::{ExtKeyUsage, KeyUsage};
use steeple_pki::{Certificate, PublicKey};

use super::attest::{Attest, Attested};
use super::credential::Recipient;
use super::wire::hash_of;
use super::{Credential, Name, Public, Scheme, Signature, VerifyError};

/// An attestation key: it lives in one TPM, and signs nothing but what that TPM generated. Which
/// TPM, only the credential tells that it could activate.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    public: Public,
    key: PublicKey,
    scheme: Scheme,
}

/// An endorsement key: it lives in one TPM, which opens with it nothing but credentials.
#[derive(Clone, Debug)]
pub struct EndorsementKey {
    public: Public,
    key: PublicKey,
}

/// A key that an attestation key certified: it was born in the same TPM and cannot leave it.
#[derive(Clone, Debug)]
pub struct ResidentKey {
    public: Public,
    key: PublicKey,
}

impl AttestationKey {
    /// Takes a public area for that of an attestation key.
    ///
    /// # Errors
    /// When a key like this could sign what it is given, or leave its TPM.
    pub fn new(public: Public) -> Result<Self, VerifyError> {
        let attributes = public.attributes();
        if !attributes.sign() {
            return Err(VerifyError::NotSigning);
        }
        let rule = |rule| Err(VerifyError::Attributes { key: "attestation key", rule });
        if !attributes.restricted() || attributes.decrypt() {
            return rule("is not a restricted signing key");
        }
        if !attributes.resident() {
            return rule("is not bound to a TPM");
        }
        let scheme = public.scheme().ok_or(VerifyError::Scheme)?;
        scheme.signature_algorithm()?;
        let key = public.key()?;
        Ok(Self { public, key, scheme })
    }

    /// Its public area.
    #[must_use]
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its name.
    ///
    /// # Errors
    /// When its hash is none of SHA-2.
    pub fn name(&self) -> Result<Name, VerifyError> {
        self.public.name()
    }

    /// What it attested, if it signed that.
    ///
    /// # Errors
    /// When it did not, or `attest` is no attestation.
    pub fn attested<'a>(
        &self,
        attest: &'a [u8],
        signature: &[u8],
    ) -> Result<Attest<'a>, VerifyError> {
        // The size is looked at first: what is hashed is bounded.
        let parsed = Attest::parse(attest);
        if let Err(error @ super::StructureError::TooLarge(_)) = parsed {
            return Err(error.into());
        }
        Signature::parse(signature)?.verify(&self.key, self.scheme, attest)?;
        Ok(parsed?)
    }

    /// The key of `public`, if the attestation (of TPM2_Certify) says that it is in the same TPM,
    /// and the key's attributes that it was made there and stays. With `bound_to`, the attestation
    /// must have been made with these bytes as its qualifying data.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn certified(
        &self,
        public: Public,
        attest: &[u8],
        signature: &[u8],
        bound_to: Option<&[u8]>,
    ) -> Result<ResidentKey, VerifyError> {
        let attest = self.attested(attest, signature)?;
        let Attested::Certify { name, .. } = attest.attested else {
            return Err(VerifyError::Kind("certify"));
        };
        if bound_to.is_some_and(|expected| expected != attest.extra_data) {
            return Err(VerifyError::Binding);
        }
        if public.name()?.as_bytes() != name {
            return Err(VerifyError::OtherKey);
        }
        if !public.attributes().resident() {
            let rule = "is not bound to a TPM";
            return Err(VerifyError::Attributes { key: "certified key", rule });
        }
        let key = public.key()?;
        Ok(ResidentKey { public, key })
    }
}

impl ResidentKey {
    /// Its public area.
    #[must_use]
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// Refuses a certificate that says itself that it is for something else than an endorsement key:
/// whoever has the key of a web server's certificate, from an authority that also vouches for
/// TPMs, could play a TPM with it. Makers that say nothing are taken at that.
///
/// # Errors
/// When it says so.
pub fn check_endorsement_usage(certificate: &Certificate) -> Result<(), VerifyError> {
    let rule = |rule| Err(VerifyError::Attributes { key: "endorsement certificate", rule });
    let named = certificate.ext_key_usage();
    let fits = |usage: &ExtKeyUsage| match usage {
        ExtKeyUsage::Other(oid) => [EK_CERTIFICATE, ANY_USAGE].contains(&&**oid),
        _ => false,
    };
    if !named.is_empty() && !named.iter().any(fits) {
        return rule("is not for endorsement keys");
    }
    let takes_secrets = |usage: KeyUsage| {
        usage.contains(KeyUsage::KEY_ENCIPHERMENT) || usage.contains(KeyUsage::KEY_AGREEMENT)
    };
    if !certificate.key_usage().is_none_or(takes_secrets) {
        return rule("is not for a key that secrets are wrapped for");
    }
    Ok(())
}

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// anyExtendedKeyUsage, 2.5.29.37.0.
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

impl EndorsementKey {
    /// Takes a public area for that of an endorsement key.
    ///
    /// # Errors
    /// When a key like this is none: one that would decrypt for anybody, or could leave its TPM.
    pub fn new(public: Public) -> Result<Self, VerifyError> {
        let attributes = public.attributes();
        let rule = |rule| Err(VerifyError::Attributes { key: "endorsement key", rule });
        if !attributes.restricted() || !attributes.decrypt() || attributes.sign() {
            return rule("is not a restricted decryption key");
        }
        if !attributes.resident() {
            return rule("is not bound to a TPM");
        }
        let key = public.key()?;
        Ok(Self { public, key })
    }

    /// Its public area.
    #[must_use]
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// How long a secret its TPM carries best: as long as the hash of its name.
    ///
    /// # Errors
    /// When that hash is none of SHA-2.
    pub fn secret_len(&self) -> Result<usize, VerifyError> {
        let algorithm = self.public.name_alg();
        hash_of(algorithm).map(steeple_pki::envelope::Sha2::len).ok_or(VerifyError::Hash(algorithm))
    }

    /// Wraps `secret` so that only the TPM of this key can open it, and only while a key named
    /// `name` is loaded there.
    ///
    /// # Errors
    /// When the public area names algorithms that do not do that.
    pub fn make_credential(&self, name: &Name, secret: &[u8]) -> Result<Credential, VerifyError> {
        let algorithm = self.public.name_alg();
        let hash = hash_of(algorithm).ok_or(VerifyError::Hash(algorithm))?;
        let cipher = self.public.symmetric().ok_or(VerifyError::CannotWrap)?;
        let aes_key_len = cipher.aes_cfb_key_len().ok_or(VerifyError::CannotWrap)?;
        // No TPM takes more than the longest digest that it knows.
        if secret.len() > hash.len() {
            return Err(VerifyError::CannotWrap);
        }
        Recipient { key: &self.key, hash, aes_key_len }.wrap(name, secret)
    }
}
