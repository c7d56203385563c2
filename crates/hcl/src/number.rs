//! Go's `strconv.ParseInt` and `ParseFloat`, whose texts users know.

use crate::error::Error;

/// `strconv.ParseInt(text, 0, 64)`: a sign, then decimal, `0x`, `0o`, `0b` or
/// `0` octal digits, with underscores between digits.
pub(crate) fn parse_int(text: &str) -> Result<i64, Error> {
    let syntax = || failure("ParseInt", text, "invalid syntax");
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = split_radix(unsigned);
    if digits.is_empty() || !underscores_are_fine(unsigned, radix) {
        return Err(syntax());
    }
    let mut value: i128 = 0;
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = c.to_digit(radix).ok_or_else(syntax)?;
        value = value.saturating_mul(i128::from(radix)).saturating_add(i128::from(digit));
    }
    let value = if negative { -value } else { value };
    i64::try_from(value).map_err(|_| failure("ParseInt", text, "value out of range"))
}

/// `strconv.ParseFloat(text, 64)` over what the scanner calls a number.
pub(crate) fn parse_float(text: &str) -> Result<f64, Error> {
    let value: f64 = text.parse().map_err(|_| failure("ParseFloat", text, "invalid syntax"))?;
    if value.is_infinite() {
        return Err(failure("ParseFloat", text, "value out of range"));
    }
    Ok(value)
}

fn failure(function: &str, text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(100).flat_map(char::escape_debug).collect();
    Error::new(format!("strconv.{function}: parsing \"{shown}\": {why}"))
}

fn split_radix(text: &str) -> (u32, &str) {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.get(1).map(u8::to_ascii_lowercase)) {
        (Some(b'0'), Some(b'x')) if bytes.len() > 2 => (16, &text[2..]),
        (Some(b'0'), Some(b'o')) if bytes.len() > 2 => (8, &text[2..]),
        (Some(b'0'), Some(b'b')) if bytes.len() > 2 => (2, &text[2..]),
        (Some(b'0'), Some(_)) => (8, &text[1..]),
        _ => (10, text),
    }
}

/// Underscores stand between digits, or between a base prefix and a digit.
fn underscores_are_fine(text: &str, radix: u32) -> bool {
    if !text.contains('_') {
        return true;
    }
    let prefix = match radix {
        10 => 0,
        8 if !matches!(text.as_bytes().get(1), Some(b'o' | b'O')) => 1,
        _ => 2,
    };
    let mut after_digit = prefix > 0;
    for byte in text.bytes().skip(prefix) {
        match (byte, after_digit) {
            (b'_', false) => return false,
            (b'_', true) => after_digit = false,
            _ => after_digit = true,
        }
    }
    after_digit
}
