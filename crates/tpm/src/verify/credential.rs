//! A secret that one TPM alone can open, and only beside a key of a given name (part 1, §24).

use steeple_pki::envelope::{Sha2, aes_cfb_encrypt, ec_point, ecdh, random, rsa_oaep};
use zeroize::Zeroizing;

use super::{Name, VerifyError};
use crate::wire::Writer;

/// What TPM2_ActivateCredential takes, each without the length in front of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// The content of the TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// The content of the TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

/// What the credential is made with.
pub(super) struct Recipient<'a> {
    pub(super) key: &'a steeple_pki::PublicKey,
    pub(super) hash: Sha2,
    pub(super) aes_key_len: usize,
}

impl Recipient<'_> {
    /// Wraps `secret` for the recipient, if `name` is the name of a key beside it.
    pub(super) fn wrap(&self, name: &Name, secret: &[u8]) -> Result<Credential, VerifyError> {
        let (seed, encrypted_seed) = self.seed()?;
        let id_object = self.protect(&seed, name.as_bytes(), secret)?;
        Ok(Credential { id_object, secret: encrypted_seed })
    }

    fn seed(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), VerifyError> {
        let label = b"IDENTITY\0";
        let Some((own_x, _)) = ec_point(self.key) else {
            // As long as the symmetric key, as the EK credential profile and SPIRE have it.
            let mut seed = Zeroizing::new(vec![0; self.aes_key_len]);
            random(&mut seed);
            let encrypted = rsa_oaep(self.key, self.hash, label, &seed);
            return Ok((seed, encrypted.map_err(|_| VerifyError::CannotWrap)?));
        };
        let agreed = ecdh(self.key).map_err(|_| VerifyError::CannotWrap)?;
        let bits = self.hash.len() * 8;
        let seed = kdfe(self.hash, &agreed.shared, "IDENTITY", &agreed.x, own_x, bits);
        Ok((seed, Writer::new().sized(&agreed.x).sized(&agreed.y).finish()))
    }

    /// Encrypts the secret, and authenticates it together with the name.
    fn protect(&self, seed: &[u8], name: &[u8], secret: &[u8]) -> Result<Vec<u8>, VerifyError> {
        let storage = kdfa(self.hash, seed, "STORAGE", name, &[], self.aes_key_len * 8);
        let mut identity = Writer::new().sized(secret).finish();
        aes_cfb_encrypt(&storage, [0; 16], &mut identity).map_err(|_| VerifyError::CannotWrap)?;
        let integrity = kdfa(self.hash, seed, "INTEGRITY", &[], &[], self.hash.len() * 8);
        let mac = self.hash.hmac(&integrity, &[&identity, name]);
        Ok(Writer::new().sized(&mac).bytes(&identity).finish())
    }
}

/// The TPM's key derivation in counter mode (part 1, §11.4.10.2), for whole bytes.
#[must_use]
pub fn kdfa(
    hash: Sha2,
    key: &[u8],
    label: &str,
    context_u: &[u8],
    context_v: &[u8],
    bits: usize,
) -> Zeroizing<Vec<u8>> {
    let total = u32::try_from(bits).expect("no key is that long").to_be_bytes();
    derive(hash, bits, |counter| {
        let parts = [counter, label.as_bytes(), b"\0", context_u, context_v, &total];
        hash.hmac(key, &parts)
    })
}

/// The TPM's key derivation of an agreed secret (part 1, §11.4.10.3), for whole bytes.
#[must_use]
pub fn kdfe(
    hash: Sha2,
    shared: &[u8],
    label: &str,
    party_u: &[u8],
    party_v: &[u8],
    bits: usize,
) -> Zeroizing<Vec<u8>> {
    derive(hash, bits, |counter| {
        hash.digest(&[counter, shared, label.as_bytes(), b"\0", party_u, party_v])
    })
}

fn derive(hash: Sha2, bits: usize, block: impl Fn(&[u8]) -> Vec<u8>) -> Zeroizing<Vec<u8>> {
    let len = bits / 8;
    // Room for whole blocks, so that no copy is left behind by a reallocation.
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.len()));
    for counter in 1_u32.. {
        if out.len() >= len {
            break;
        }
        out.extend_from_slice(&Zeroizing::new(block(&counter.to_be_bytes())));
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    /// The numbers of go-tpm's own test: an RSA key, a seed of zeros, this name and secret.
    #[test]
    fn a_credential_is_protected_as_other_implementations_protect_it() {
        let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let recipient = Recipient { key: key.public_key(), hash: Sha2::Sha256, aes_key_len: 16 };
        let mut name = vec![0, 0x0b];
        name.extend(hex("e6c9e97fda917ca0f64dbef678b019a82fdafccc94860f88bddc036644c92bdc"));
        let secret: Vec<u8> = [1, 2, 3, 4, 5, 6, 7, 8].repeat(4);
        let made = recipient.protect(&[0; 16], &name, &secret).unwrap();
        let expected = "002058ca640528dd69a0c6ef82a87173b1066bec1a9ac2da6b066a57a596bbee76f9\
                        4be88de887123d02c228f64c36eba7bfb0486f8fd5240ff18ccae3f119d06e3b290b";
        assert_eq!(made, hex(expected));
    }

    #[test]
    fn derived_keys_are_as_long_as_asked_and_differ_by_label_and_context() {
        let of = |label, u: &[u8], bits| kdfa(Sha2::Sha256, b"seed", label, u, &[], bits);
        assert_eq!(of("A", b"", 128).len(), 16);
        assert_eq!(of("A", b"", 768).len(), 96);
        assert_ne!(of("A", b"", 256), of("B", b"", 256));
        assert_ne!(of("A", b"", 256), of("A", b"x", 256));
        assert_eq!(kdfe(Sha2::Sha384, b"z", "A", b"u", b"v", 384).len(), 48);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }
}
