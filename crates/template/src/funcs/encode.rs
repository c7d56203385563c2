//! Digests, encodings and random IDs.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use steeple_pki::digest;

use super::{Func, S, func, string};

pub(super) static TABLE: &[Func] = &[
    func("sha1sum", S, |heap, args| heap.text(hex(&digest::sha1(string(args, 0).as_bytes())))),
    func("sha256sum", S, |heap, args| {
        heap.text(hex(digest::Sha256::of(string(args, 0).as_bytes()).as_ref()))
    }),
    func("adler32sum", S, |heap, args| heap.text(adler32(string(args, 0).as_bytes()).to_string())),
    func("b64enc", S, |heap, args| heap.text(STANDARD.encode(string(args, 0).as_bytes()))),
    func("b64dec", S, |heap, args| {
        let text = without_newlines(&string(args, 0));
        match STANDARD.decode(&text) {
            Ok(bytes) => decoded(heap, bytes),
            Err(error) => heap.text(illegal("base64", bad_base64(&text, &error))),
        }
    }),
    func("b32enc", S, |heap, args| heap.text(base32(string(args, 0).as_bytes()))),
    func("b32dec", S, |heap, args| match from_base32(&without_newlines(&string(args, 0))) {
        Ok(bytes) => decoded(heap, bytes),
        Err(at) => heap.text(illegal("base32", at)),
    }),
    func("uuidv4", &[], |heap, _| heap.text(uuid::Uuid::new_v4().to_string())),
];

fn decoded(heap: &mut crate::heap::Heap, bytes: Vec<u8>) -> super::Answer {
    let text = String::from_utf8(bytes).map_err(|_| "what was decoded is not text".to_owned())?;
    heap.text(text)
}

fn without_newlines(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}

/// What sprig gives in place of what cannot be decoded: the error's text.
fn illegal(what: &str, at: usize) -> String {
    format!("illegal {what} data at input byte {at}")
}

fn bad_base64(text: &str, error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            *at
        }
        // Go names the start of the group that is not whole.
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
            text.find('=').unwrap_or(text.len() / 4 * 4)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    let (low, high) = bytes.iter().fold((1, 0), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % MODULUS;
        (low, (high + low) % MODULUS)
    });
    (high << 16) | low
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(5) {
        let mut group = [0; 8];
        group[3..3 + chunk.len()].copy_from_slice(chunk);
        let group = u64::from_be_bytes(group);
        let symbols = (chunk.len() * 8).div_ceil(5);
        for position in 0..8 {
            let index = (group >> (35 - 5 * position)) & 31;
            out.push(match position < symbols {
                true => char::from(BASE32[usize::try_from(index).unwrap_or(0)]),
                false => '=',
            });
        }
    }
    out
}

/// The bytes, or where the text breaks the encoding.
fn from_base32(text: &str) -> Result<Vec<u8>, usize> {
    let mut out = Vec::new();
    for (number, group) in text.as_bytes().chunks(8).enumerate() {
        let at = 8 * number;
        let symbols = group.iter().position(|byte| *byte == b'=').unwrap_or(group.len());
        let padding = &group[symbols..];
        let mut bits: u64 = 0;
        for (position, symbol) in group[..symbols].iter().enumerate() {
            let value = BASE32.iter().position(|known| known == symbol).ok_or(at + position)?;
            bits = (bits << 5) | u64::try_from(value).unwrap_or(0);
        }
        if let Some(position) = padding.iter().position(|byte| *byte != b'=') {
            return Err(at + symbols + position);
        }
        if group.len() < 8 {
            return Err(text.len());
        }
        if !matches!(symbols, 2 | 4 | 5 | 7 | 8) {
            return Err(at + symbols);
        }
        if symbols < 8 && at + 8 < text.len() {
            return Err(at + 8);
        }
        let bytes = symbols * 5 / 8;
        bits <<= 40 - 5 * symbols;
        out.extend_from_slice(&bits.to_be_bytes()[3..3 + bytes]);
    }
    Ok(out)
}
