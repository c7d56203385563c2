//! TPMS_ATTEST: what a TPM generated for a restricted key to sign (part 2, §10.12.12).

use super::StructureError;
use super::wire::Reader;

/// TPM_GENERATED_VALUE: no restricted key signs what begins so and comes from outside.
pub const TPM_GENERATED: u32 = 0xff54_4347;

const CERTIFY: u16 = 0x8017;
const QUOTE: u16 = 0x8018;
const CREATION: u16 = 0x801a;
/// More banks of PCRs than any TPM has.
const MAX_SELECTIONS: u32 = 16;
/// As many bytes as select 256 PCRs.
const MAX_SELECT: u8 = 32;

/// An attestation. That it was signed is not said yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attest<'a> {
    /// The qualified name of the key that signed.
    pub signer: &'a [u8],
    /// What the caller wanted to be signed with it: a nonce.
    pub extra_data: &'a [u8],
    /// The TPM's time.
    pub clock: ClockInfo,
    /// The version of the TPM's firmware.
    pub firmware: u64,
    /// What it tells of.
    pub attested: Attested<'a>,
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockInfo {
    /// Milliseconds for which the TPM was powered.
    pub clock: u64,
    /// How often it was reset.
    pub resets: u32,
    /// How often it was restarted or resumed.
    pub restarts: u32,
    /// Whether no larger value of the clock was seen before.
    pub safe: bool,
}

/// What an attestation tells of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attested<'a> {
    /// A key that is loaded.
    Certify {
        /// Its name.
        name: &'a [u8],
        /// The name with those of its parents.
        qualified_name: &'a [u8],
    },
    /// PCRs.
    Quote {
        /// Which.
        selections: Vec<PcrSelection>,
        /// The digest of their values.
        digest: &'a [u8],
    },
    /// How a key was made.
    Creation {
        /// Its name.
        name: &'a [u8],
        /// The digest of the creation data.
        digest: &'a [u8],
    },
}

/// Some PCRs of one bank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrSelection {
    /// The TPM_ALG_ID of the bank's hash.
    pub hash: u16,
    /// Their numbers, ascending.
    pub pcrs: Vec<u16>,
}

impl<'a> Attest<'a> {
    /// Reads one attestation and nothing else.
    ///
    /// # Errors
    /// When it is not one, or tells of something that nobody here asks.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new("TPMS_ATTEST", encoded)?;
        let magic = reader.u32()?;
        let kind = reader.u16()?;
        if magic != TPM_GENERATED {
            return Err(StructureError::Magic(magic));
        }
        let signer = reader.sized()?;
        let extra_data = reader.sized()?;
        let clock = ClockInfo {
            clock: reader.u64()?,
            resets: reader.u32()?,
            restarts: reader.u32()?,
            safe: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(reader.bad_value()),
            },
        };
        let firmware = reader.u64()?;
        let attested = match kind {
            CERTIFY => Attested::Certify { name: reader.sized()?, qualified_name: reader.sized()? },
            QUOTE => {
                Attested::Quote { selections: selections(&mut reader)?, digest: reader.sized()? }
            }
            CREATION => Attested::Creation { name: reader.sized()?, digest: reader.sized()? },
            other => return Err(StructureError::AttestType(other)),
        };
        reader.finish()?;
        Ok(Self { signer, extra_data, clock, firmware, attested })
    }
}

fn selections(reader: &mut Reader<'_>) -> Result<Vec<PcrSelection>, StructureError> {
    let count = reader.u32()?;
    if count > MAX_SELECTIONS {
        return Err(reader.bad_value());
    }
    (0..count)
        .map(|_| {
            let hash = reader.u16()?;
            let len = reader.u8()?;
            if len > MAX_SELECT {
                return Err(reader.bad_value());
            }
            let bits = reader.take(usize::from(len))?;
            let selected = |pcr: &u16| bits[usize::from(pcr / 8)] & (1 << (pcr % 8)) != 0;
            let pcrs = (0..u16::from(len) * 8).filter(selected).collect();
            Ok(PcrSelection { hash, pcrs })
        })
        .collect()
}
