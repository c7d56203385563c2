//! BER (X.690 §8) to DER: signers that stream write lengths that are not known yet as indefinite,
//! and octet strings in pieces.

use crate::der::{DerError, EOC, OCTET_STRING, put};

/// How deep elements may nest; the elements of a message with certificates nest to about 15.
const MAX_DEPTH: usize = 32;

const CONSTRUCTED: u8 = 0x20;

/// The one element that `input` is, with definite, minimal lengths and octet strings in one piece.
/// What was DER comes back as it was.
pub(super) fn to_der(input: &[u8]) -> Result<Vec<u8>, DerError> {
    let mut out = Vec::with_capacity(input.len());
    let mut rest = input;
    element(&mut rest, &mut out, MAX_DEPTH)?;
    if rest.is_empty() { Ok(out) } else { Err(DerError::Trailing) }
}

/// Moves one element from `input` to `out`.
fn element(input: &mut &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), DerError> {
    let depth = depth.checked_sub(1).ok_or(DerError::Value("nesting"))?;
    let (tag, mut content) = header(input)?;
    if tag & CONSTRUCTED == 0 {
        let Content::Definite(value) = content else { return Err(DerError::Length) };
        put(out, tag, value);
        return Ok(());
    }
    let mut inner = Vec::new();
    let pieces = tag == OCTET_STRING | CONSTRUCTED;
    loop {
        let source = match &mut content {
            Content::Definite([]) => break,
            Content::Definite(value) => value,
            Content::Indefinite => {
                if let [EOC, EOC, tail @ ..] = input {
                    *input = tail;
                    break;
                }
                &mut *input
            }
        };
        if pieces {
            piece(source, &mut inner, depth)?;
        } else {
            element(source, &mut inner, depth)?;
        }
    }
    put(out, if pieces { OCTET_STRING } else { tag }, &inner);
    Ok(())
}

/// Moves the content of one octet string, which may itself be in pieces, to `out`.
fn piece(input: &mut &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), DerError> {
    let mut whole = Vec::new();
    element(input, &mut whole, depth)?;
    let mut whole = crate::der::Reader::new(&whole);
    out.extend_from_slice(whole.value(OCTET_STRING)?);
    Ok(())
}

enum Content<'a> {
    Definite(&'a [u8]),
    /// What follows, up to the end-of-contents octets.
    Indefinite,
}

/// Reads tag and length, and the content where its length is known.
fn header<'a>(input: &mut &'a [u8]) -> Result<(u8, Content<'a>), DerError> {
    let &[tag, first, ref tail @ ..] = *input else { return Err(DerError::Truncated) };
    if tag & 0x1f == 0x1f {
        return Err(DerError::Tag);
    }
    if first == 0x80 {
        *input = tail;
        return Ok((tag, Content::Indefinite));
    }
    let (length, header) = crate::der::length(first, tail)?;
    let value = tail.get(header..).and_then(|it| it.get(..length)).ok_or(DerError::Truncated)?;
    *input = &tail[header + length..];
    Ok((tag, Content::Definite(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_comes_back_as_it_was() {
        for der in [&[0x30, 0x06, 0x02, 0x01, 0x05, 0x04, 0x01, 0xff][..], &[0x05, 0x00]] {
            assert_eq!(to_der(der).unwrap(), der);
        }
    }

    #[test]
    fn indefinite_lengths_and_pieces_become_definite_and_one() {
        let ber = [
            0x30, 0x80, // SEQUENCE
            0x24, 0x80, 0x04, 0x02, 1, 2, 0x24, 0x03, 0x04, 0x01, 3, 0, 0, // OCTET STRING
            0xa0, 0x80, 0x05, 0x00, 0, 0, // [0] NULL
            0, 0,
        ];
        let der = [0x30, 0x09, 0x04, 0x03, 1, 2, 3, 0xa0, 0x02, 0x05, 0x00];
        assert_eq!(to_der(&ber).unwrap(), der);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (bad, why) in [
            (&[0x30, 0x80, 0x05, 0x00][..], DerError::Truncated),
            (&[0x04, 0x80, 0, 0], DerError::Length),
            (&[0x24, 0x80, 0x05, 0x00, 0, 0], DerError::Unexpected(0x05)),
            (&[0x05, 0x00, 0x05, 0x00], DerError::Trailing),
            (&[0x30, 0x81, 0x02, 0x05, 0x00], DerError::Length),
            (&[0x1f, 0x81, 0x01, 0x00], DerError::Tag),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00], DerError::Truncated),
            (&[], DerError::Truncated),
        ] {
            assert_eq!(to_der(bad).unwrap_err(), why, "{bad:x?}");
        }
        let deep = [0x30, 0x80].repeat(100_000);
        assert_eq!(to_der(&deep).unwrap_err(), DerError::Value("nesting"));
    }
}
