//! HCL version 1 and its JSON form, read exactly as SPIRE's configuration
//! library (`hashicorp/hcl` 1.0.1-vault-7) reads them.
//!
//! Text becomes a tree with positions ([`parse`]), the tree becomes serde types
//! by HCL's own weak rules ([`Block::decode`]), and any part of the tree can be
//! printed again in the canonical layout ([`Block::to_hcl`]).
//!
//! Not here: what any key means (`steeple-config`), HCL 2, interpolation.
//!
//! Invariant: no input panics, and none costs more stack or memory than
//! [`MAX_TEXT`] and [`MAX_DEPTH`] allow.
//!
//! Start at [`parse`] and [`Block`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ast;
mod block;
mod decode;
mod error;
#[cfg(test)]
mod golden;
mod json;
mod located;
mod number;
mod parser;
mod printer;
mod scanner;
mod token;
mod unquote;

pub use block::{Block, Decoded, Labelled, UnknownKey};
pub use error::{Error, Errors};
pub use located::Located;
pub use token::Position;

/// The longest text that is read, in bytes.
pub const MAX_TEXT: usize = 1024 * 1024;

/// How deep objects and lists may nest.
pub const MAX_DEPTH: usize = 64;

/// Reads a whole file: HCL, or JSON when the first visible character is `{`.
///
/// # Errors
/// The text is longer than [`MAX_TEXT`], nests deeper than [`MAX_DEPTH`], is
/// not UTF-8 or is neither HCL v1 nor JSON; the message is the library's.
pub fn parse(text: &[u8]) -> Result<Block, Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::new(format!("text is longer than {MAX_TEXT} bytes")));
    }
    let text = std::str::from_utf8(text)
        .map_err(|bad| Error::at(bad_utf8(text, bad.valid_up_to()), "illegal UTF-8 encoding"))?;
    let body = match text.trim_start_matches(is_space).starts_with('{') {
        true => json::parse(text)?,
        false => parser::parse(text)?,
    };
    Ok(Block::of_body(body))
}

/// Where the first byte that is not UTF-8 stands.
fn bad_utf8(text: &[u8], offset: usize) -> Position {
    let head = &text[..offset];
    let start = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = head.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&head[start..]).chars().count() + 1;
    Position { offset, line, column }
}

/// Go's `unicode.IsSpace`.
fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{0b}' | '\u{0c}' | '\r' | ' ' | '\u{85}' | '\u{a0}')
        || (c as u32 > 0xff && c.is_whitespace())
}
