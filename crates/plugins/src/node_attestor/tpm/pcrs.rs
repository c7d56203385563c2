//! Which PCRs are asked for, and how operators and selectors write them: `sha256:0,7+sha1:1`.

use serde::{Deserialize, Serialize};
use steeple_tpm::{PcrSelection, spec};

/// PCRs of one bank.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bank {
    /// The bank's hash, by name.
    pub(super) hash: String,
    /// Which, in ascending order.
    pub(super) pcrs: Vec<u8>,
}

/// Why a selection is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BankError {
    #[error(
        "a selection of PCRs looks like \"sha256:0,7\", and several banks like \"sha256:0+sha1:1\""
    )]
    Form,
    #[error("the banks of PCRs are sha1, sha256, sha384 and sha512")]
    Hash,
    #[error("PCRs have the numbers 0 to 23, and each is named once")]
    Number,
}

const HASHES: [(&str, u16); 4] = [
    ("sha1", spec::ALG_SHA1),
    ("sha256", spec::ALG_SHA256),
    ("sha384", spec::ALG_SHA384),
    ("sha512", spec::ALG_SHA512),
];

/// The name of a bank's hash.
pub(super) fn hash_name(number: u16) -> Option<&'static str> {
    HASHES.iter().find(|(_, it)| *it == number).map(|(name, _)| *name)
}

/// Reads what an operator wrote.
///
/// # Errors
/// When it is no selection.
pub(super) fn parse(text: &str) -> Result<Vec<Bank>, BankError> {
    let mut banks = Vec::new();
    for bank in text.split('+') {
        let (hash, pcrs) = bank.trim().split_once(':').ok_or(BankError::Form)?;
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| BankError::Number);
        let mut pcrs = pcrs.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
        pcrs.sort_unstable();
        banks.push(Bank { hash: hash.to_owned(), pcrs });
    }
    selections(&banks)?;
    Ok(banks)
}

/// The selections that a TPM is asked for.
///
/// # Errors
/// When the banks make no sense.
pub(super) fn selections(banks: &[Bank]) -> Result<Vec<PcrSelection>, BankError> {
    let mut made: Vec<PcrSelection> = Vec::new();
    for Bank { hash, pcrs } in banks.iter().take(HASHES.len() + 1) {
        let known = HASHES.iter().find(|(name, _)| name == hash);
        let hash = known.ok_or(BankError::Hash)?.1;
        if made.iter().any(|it| it.hash == hash) {
            return Err(BankError::Form);
        }
        let ascending = pcrs.windows(2).all(|pair| pair[0] < pair[1]);
        if pcrs.is_empty() || !ascending || pcrs.iter().any(|pcr| *pcr > 23) {
            return Err(BankError::Number);
        }
        made.push(PcrSelection { hash, pcrs: pcrs.clone() });
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_read_as_operators_write_them() {
        let bank = |hash: &str, pcrs: &[u8]| Bank { hash: hash.into(), pcrs: pcrs.to_vec() };
        assert_eq!(parse("sha256:7,0"), Ok(vec![bank("sha256", &[0, 7])]));
        let two = vec![bank("sha256", &[0]), bank("sha1", &[1, 23])];
        assert_eq!(parse("sha256:0 + sha1:1, 23"), Ok(two));
        for (text, error) in [
            ("", BankError::Form),
            ("7", BankError::Form),
            ("sha256:1+sha256:2", BankError::Form),
            ("md5:1", BankError::Hash),
            ("sha256:", BankError::Number),
            ("sha256:24", BankError::Number),
            ("sha256:1,1", BankError::Number),
            ("sha256:-1", BankError::Number),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
