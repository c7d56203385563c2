//! Quotes: which values the PCRs had when the TPM was asked.

use super::attest::Attested;
use super::keys::AttestationKey;
use super::wire::hash_of;
use super::{ClockInfo, VerifyError};

/// The value of one PCR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrValue {
    /// The TPM_ALG_ID of the bank's hash.
    pub hash: u16,
    /// Its number.
    pub pcr: u16,
    /// Its value.
    pub value: Vec<u8>,
}

/// What a quote proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// The PCRs and their values, in the order in which the quote names them.
    pub values: Vec<PcrValue>,
    /// The TPM's time when it was asked.
    pub clock: ClockInfo,
    /// The version of its firmware.
    pub firmware: u64,
}

impl AttestationKey {
    /// The PCRs that a quote speaks of, with their values out of `values`, if the quote was made
    /// with `nonce` and confirms them. Values that it does not speak of are not returned.
    ///
    /// # Errors
    /// When it does not confirm them.
    pub fn quoted(
        &self,
        attest: &[u8],
        signature: &[u8],
        nonce: &[u8],
        values: &[PcrValue],
    ) -> Result<Quoted, VerifyError> {
        let signing_hash = self.public().scheme().map_or(0, |scheme| scheme.hash);
        let hash = hash_of(signing_hash).ok_or(VerifyError::Hash(signing_hash))?;
        let attest = self.attested(attest, signature)?;
        let Attested::Quote { selections, digest } = attest.attested else {
            return Err(VerifyError::Kind("quote"));
        };
        if attest.extra_data != nonce {
            return Err(VerifyError::Binding);
        }
        let mut quoted = Vec::new();
        for selection in selections {
            for pcr in selection.pcrs {
                let of = |it: &&PcrValue| (it.hash, it.pcr) == (selection.hash, pcr);
                let value = values.iter().find(of).ok_or(VerifyError::PcrDigest)?;
                // Values that run into one another could be cut elsewhere.
                if digest_len(value.hash) != Some(value.value.len()) {
                    return Err(VerifyError::PcrDigest);
                }
                quoted.push(value.clone());
            }
        }
        let parts: Vec<&[u8]> = quoted.iter().map(|it| &*it.value).collect();
        if hash.digest(&parts) != digest {
            return Err(VerifyError::PcrDigest);
        }
        Ok(Quoted { values: quoted, clock: attest.clock, firmware: attest.firmware })
    }
}

/// The length of a bank's values.
fn digest_len(algorithm: u16) -> Option<usize> {
    match algorithm {
        // SHA-1, SM3, SHA3.
        0x0004 => Some(20),
        0x0012 | 0x0027 => Some(32),
        0x0028 => Some(48),
        0x0029 => Some(64),
        other => hash_of(other).map(steeple_pki::envelope::Sha2::len),
    }
}
