//! PEM (RFC 7468), read as leniently as Go's `encoding/pem` where files in the field need it: text
//! around blocks, headers inside them, any line length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// The largest PEM text that is looked at, in bytes.
pub const MAX_PEM_LEN: usize = 4 * 1024 * 1024;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// What is wrong with a PEM text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PemError {
    /// The text is larger than [`MAX_PEM_LEN`].
    #[error("PEM text is too large")]
    TooLarge,
    /// A BEGIN line without its END line; the field is the line's number, from 1.
    #[error("PEM block that begins on line {0} does not end")]
    Unterminated(usize),
    /// The contents are not base64; the field is the number of the BEGIN line, from 1.
    #[error("PEM block that begins on line {0} is not valid base64")]
    Base64(usize),
}

/// One block.
pub struct Block<'a> {
    /// What stands after BEGIN, such as `CERTIFICATE`.
    pub label: &'a str,
    /// The decoded contents.
    pub contents: Vec<u8>,
}

/// The blocks of a text, in order. Stops after the first error.
pub fn blocks(text: &str) -> impl Iterator<Item = Result<Block<'_>, PemError>> {
    let too_large = text.len() > MAX_PEM_LEN;
    let mut lines = text.lines().enumerate();
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        if too_large {
            failed = true;
            return Some(Err(PemError::TooLarge));
        }
        let (begin, label) = lines.by_ref().find_map(|(number, line)| {
            let label = line.trim_end().strip_prefix(BEGIN)?.strip_suffix(DASHES)?;
            Some((number + 1, label))
        })?;
        let block = read_body(&mut lines, begin, label);
        failed = block.is_err();
        Some(block)
    })
}

fn read_body<'a>(
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
    begin: usize,
    label: &'a str,
) -> Result<Block<'a>, PemError> {
    let mut body = zeroize::Zeroizing::new(String::new());
    for (_, line) in lines {
        let line = line.trim();
        if let Some(end) = line.strip_prefix(END) {
            if end.strip_suffix(DASHES) != Some(label) {
                return Err(PemError::Unterminated(begin));
            }
            let contents = STANDARD.decode(body.as_bytes()).map_err(|_| PemError::Base64(begin))?;
            return Ok(Block { label, contents });
        }
        // Headers ("Name: value") stand before the contents.
        if !(body.is_empty() && line.contains(": ")) {
            body.push_str(line);
        }
    }
    Err(PemError::Unterminated(begin))
}

/// Prints one block: lines of 64 characters, a line end after each.
#[must_use]
pub fn encode(label: &str, contents: &[u8]) -> String {
    let body = zeroize::Zeroizing::new(STANDARD.encode(contents));
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    for part in [BEGIN, label, DASHES, "\n"] {
        out.push_str(part);
    }
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    for part in [END, label, DASHES, "\n"] {
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests;
