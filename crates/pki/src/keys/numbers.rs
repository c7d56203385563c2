//! Private keys made of their bare numbers, as OpenSSH keeps them.

use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use num_bigint::BigUint;
use zeroize::Zeroizing;

use super::private::{Pair, signing_algorithm};
use super::public::curve_oid;
use super::{KeyError, KeyKind, PrivateKey};

/// The numbers of an RSA key with two primes, big-endian.
#[derive(Clone, Copy)]
pub struct RsaNumbers<'a> {
    /// n
    pub modulus: &'a [u8],
    /// e
    pub public_exponent: &'a [u8],
    /// d
    pub private_exponent: &'a [u8],
    /// p
    pub prime1: &'a [u8],
    /// q
    pub prime2: &'a [u8],
    /// The inverse of q modulo p.
    pub coefficient: &'a [u8],
}

impl PrivateKey {
    /// The RSA key of these numbers, which are checked against each other.
    ///
    /// # Errors
    /// When they do not make a supported key.
    pub fn from_rsa_numbers(numbers: &RsaNumbers<'_>) -> Result<Self, KeyError> {
        // Sizes first: what follows is arithmetic on what a file said.
        crate::external::rsa_public_key(numbers.modulus, numbers.public_exponent)?;
        if numbers.private_exponent.len() > numbers.modulus.len() + 1 {
            return Err(KeyError::Invalid);
        }
        let exponent_at = |prime: &[u8]| -> Result<Zeroizing<Vec<u8>>, KeyError> {
            let below = BigUint::from_bytes_be(prime);
            if below <= BigUint::from(2_u8) || prime.len() > numbers.modulus.len() {
                return Err(KeyError::Invalid);
            }
            let exponent = BigUint::from_bytes_be(numbers.private_exponent) % (below - 1_u8);
            Ok(Zeroizing::new(exponent.to_bytes_be()))
        };
        let exponent1 = exponent_at(numbers.prime1)?;
        let exponent2 = exponent_at(numbers.prime2)?;
        let pair = RsaKeyPair::from_components(&KeyPairComponents::<&[u8]> {
            public_key: PublicKeyComponents {
                n: stripped(numbers.modulus),
                e: stripped(numbers.public_exponent),
            },
            d: numbers.private_exponent,
            p: numbers.prime1,
            q: numbers.prime2,
            dP: &exponent1,
            dQ: &exponent2,
            qInv: numbers.coefficient,
        });
        Self::from_pair(Pair::Rsa(pair.map_err(|_| KeyError::Invalid)?))
    }

    /// The EC key of a scalar and its point in uncompressed form, which are checked against each
    /// other.
    ///
    /// # Errors
    /// When they do not make a supported key.
    pub fn from_ec_numbers(kind: KeyKind, scalar: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        let length: usize = match kind {
            KeyKind::P256 => 32,
            KeyKind::P384 => 48,
            KeyKind::P521 => 66,
            _ => return Err(KeyError::UnsupportedAlgorithm),
        };
        let curve = curve_oid(kind).ok_or(KeyError::UnsupportedAlgorithm)?;
        let digits = stripped(scalar);
        let pad = length.checked_sub(digits.len()).ok_or(KeyError::Invalid)?;
        let mut padded = Zeroizing::new(vec![0; length]);
        padded[pad..].copy_from_slice(digits);
        let algorithm = signing_algorithm(curve)?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, point);
        Self::from_pair(Pair::Ec(pair.map_err(|_| KeyError::Invalid)?))
    }

    /// The Ed25519 key of a seed and its public half, which are checked against each other.
    ///
    /// # Errors
    /// When they do not belong together.
    pub fn from_ed25519_seed(seed: &[u8], public: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
        Self::from_pair(Pair::Ed25519(pair.map_err(|_| KeyError::Invalid)?))
    }
}

fn stripped(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[first..]
}
