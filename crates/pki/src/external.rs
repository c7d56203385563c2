//! What a key's holder outside of this process (an HSM) is given and gives: digests instead of
//! messages, numbers instead of encodings.

use aws_lc_rs::digest;

use crate::der;
use crate::keys::{KeyError, KeyKind, PublicKey, SignatureAlgorithm};

/// The digest of `message` that `algorithm` signs; `None` for an algorithm that signs messages.
#[must_use]
pub fn digest(algorithm: SignatureAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
    use SignatureAlgorithm as Alg;
    let hash = match algorithm {
        Alg::EcdsaSha256 | Alg::RsaPkcs1Sha256 | Alg::RsaPssSha256 => &digest::SHA256,
        Alg::EcdsaSha384 | Alg::RsaPkcs1Sha384 | Alg::RsaPssSha384 => &digest::SHA384,
        Alg::EcdsaSha512 | Alg::RsaPkcs1Sha512 | Alg::RsaPssSha512 => &digest::SHA512,
        Alg::Ed25519 => return None,
    };
    Some(digest::digest(hash, message).as_ref().to_vec())
}

/// The DigestInfo around a SHA-2 digest, which is what PKCS#1 v1.5 pads (RFC 8017 §9.2).
/// `None` for a length that no such digest has.
#[must_use]
pub fn digest_info(digest: &[u8]) -> Option<Vec<u8>> {
    // 2.16.840.1.101.3.4.2.x
    let last = match digest.len() {
        32 => 1,
        48 => 2,
        64 => 3,
        _ => return None,
    };
    let hash = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last];
    let mut info = Vec::with_capacity(digest.len() + 19);
    der::put_nested(&mut info, der::SEQUENCE, |out| {
        der::put_nested(out, der::SEQUENCE, |out| {
            der::put(out, der::OID, &hash);
            der::put(out, der::NULL, &[]);
        });
        der::put(out, der::OCTET_STRING, digest);
    });
    Some(info)
}

/// The ASN.1 form of an ECDSA signature that is two numbers side by side. `None` for an odd or
/// absurd length.
#[must_use]
pub fn ecdsa_der(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) || raw.len() > 132 {
        return None;
    }
    let mut signature = Vec::with_capacity(raw.len() + 12);
    der::put_nested(&mut signature, der::SEQUENCE, |out| {
        raw.chunks_exact(raw.len() / 2).for_each(|half| der::put_unsigned(out, half));
    });
    Some(signature)
}

/// The DER object identifier of a curve; `None` when the kind has none.
#[must_use]
pub fn curve(kind: KeyKind) -> Option<Vec<u8>> {
    let name = match kind {
        KeyKind::P256 => crate::oid::P256,
        KeyKind::P384 => crate::oid::P384,
        KeyKind::P521 => crate::oid::P521,
        _ => return None,
    };
    let mut out = Vec::with_capacity(12);
    der::put(&mut out, der::OID, name);
    Some(out)
}

/// The public key of a point on the curve of `kind`: bare and uncompressed, or that in an OCTET
/// STRING, as PKCS#11 has it.
///
/// # Errors
/// When it is not one.
pub fn ec_public_key(kind: KeyKind, point: &[u8]) -> Result<PublicKey, KeyError> {
    let wrapped = || {
        let mut outer = der::Reader::new(point);
        let inner = outer.value(der::OCTET_STRING).ok()?;
        outer.finish().ok().map(|()| inner)
    };
    // A bare point begins with the tag of an OCTET STRING, but its length is odd by one.
    PublicKey::from_ec_point(kind, wrapped().unwrap_or(point))
        .or_else(|_| PublicKey::from_ec_point(kind, point))
}

/// The public key of an RSA modulus and exponent, big-endian.
///
/// # Errors
/// When they are not those of a supported key.
pub fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
    let mut key = Vec::with_capacity(modulus.len() + exponent.len() + 16);
    der::put_nested(&mut key, der::SEQUENCE, |out| {
        der::put_unsigned(out, modulus);
        der::put_unsigned(out, exponent);
    });
    PublicKey::from_rsa_der(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyType, PrivateKey};

    #[test]
    fn public_keys_are_put_together_of_their_numbers() {
        for (key_type, kind) in [(KeyType::EcP256, KeyKind::P256), (KeyType::EcP384, KeyKind::P384)]
        {
            let key = PrivateKey::generate(key_type).unwrap();
            let point = key.public_key().bits();
            let mut wrapped = Vec::new();
            der::put(&mut wrapped, der::OCTET_STRING, point);
            assert!(ec_public_key(kind, point).unwrap() == *key.public_key());
            assert!(ec_public_key(kind, &wrapped).unwrap() == *key.public_key());
            assert!(ec_public_key(kind, &wrapped[1..]).is_err());
            assert!(ec_public_key(kind, &[]).is_err());
        }
        let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
        let (modulus, exponent) = key.public_key().rsa_numbers().unwrap();
        assert!(rsa_public_key(modulus, exponent).unwrap() == *key.public_key());
        assert!(rsa_public_key(&[0; 256], exponent).is_err());
    }

    #[test]
    fn digest_infos_are_those_of_the_standard() {
        let digest = digest(SignatureAlgorithm::RsaPkcs1Sha256, b"abc").unwrap();
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        // RFC 8017 §9.2, note 1.
        let prefix = [
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x01, 0x05, 0x00, 0x04, 0x20,
        ];
        assert_eq!(digest_info(&digest).unwrap(), [&prefix[..], &digest].concat());
        assert!(digest_info(&digest[1..]).is_none());
    }

    #[test]
    fn signatures_of_two_numbers_become_asn1() {
        assert_eq!(ecdsa_der(&[0, 1, 0x80, 0]).unwrap(), [48, 8, 2, 1, 1, 2, 3, 0, 0x80, 0]);
        assert!(ecdsa_der(&[]).is_none() && ecdsa_der(&[1, 2, 3]).is_none());
    }
}
