//! Go's constants: strings, characters and numbers.

use crate::ast::Number;
use crate::lex::Kind;

/// The value of a quoted or raw string as written, or nothing when it is malformed.
pub(crate) fn unquote(written: &str) -> Option<String> {
    if let Some(raw) = written.strip_prefix('`') {
        return Some(raw.strip_suffix('`')?.replace('\r', ""));
    }
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while !rest.is_empty() {
        let (unit, after) = unescape(rest, '"')?;
        match unit {
            Unit::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unit::Byte(byte) => bytes.push(byte),
        }
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

enum Unit {
    Char(char),
    Byte(u8),
}

/// The first character or byte that `text` writes, and what follows.
fn unescape(text: &str, quote: char) -> Option<(Unit, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first == quote {
        return None;
    }
    if first != '\\' {
        return Some((Unit::Char(first), chars.as_str()));
    }
    let letter = chars.next()?;
    let rest = chars.as_str();
    let plain = |c| Some((Unit::Char(c), rest));
    match letter {
        'a' => plain('\u{7}'),
        'b' => plain('\u{8}'),
        'f' => plain('\u{c}'),
        'n' => plain('\n'),
        'r' => plain('\r'),
        't' => plain('\t'),
        'v' => plain('\u{b}'),
        '\\' => plain('\\'),
        '\'' | '"' if letter == quote => plain(letter),
        'x' => {
            let byte = u8::from_str_radix(digits(rest, 2)?, 16).ok()?;
            Some((Unit::Byte(byte), &rest[2..]))
        }
        'u' | 'U' => {
            let len = if letter == 'u' { 4 } else { 8 };
            let code = u32::from_str_radix(digits(rest, len)?, 16).ok()?;
            Some((Unit::Char(char::from_u32(code)?), &rest[len..]))
        }
        '0'..='7' => {
            let octal = text.get(1..4)?;
            let byte = octal.bytes().all(|byte| byte.is_ascii_digit());
            let byte = byte.then(|| u8::from_str_radix(octal, 8).ok()).flatten()?;
            Some((Unit::Byte(byte), &text[4..]))
        }
        _ => None,
    }
}

fn digits(text: &str, len: usize) -> Option<&str> {
    text.get(..len).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The number that a token writes.
pub(crate) fn number(text: &str, kind: Kind) -> Result<Number, String> {
    let mut number = Number { text: text.to_owned(), ..Number::default() };
    if kind == Kind::CharConstant {
        let malformed = || format!("malformed character constant: {text}");
        let (unit, rest) = unescape(&text[1..], '\'').ok_or("invalid syntax")?;
        if rest != "'" {
            return Err(malformed());
        }
        let code = match unit {
            Unit::Char(c) => u32::from(c),
            Unit::Byte(byte) => u32::from(byte),
        };
        number.int = Some(i64::from(code));
        number.uint = Some(u64::from(code));
        number.float = Some(f64::from(code));
        return Ok(number);
    }
    if kind == Kind::Complex || text.ends_with('i') {
        number.complex = true;
        return Ok(number);
    }
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if let Some(value) = integer(magnitude) {
        if !negative && !text.starts_with('+') {
            number.uint = Some(value);
        }
        let signed = i128::from(value) * if negative { -1 } else { 1 };
        number.int = i64::try_from(signed).ok();
        if number.int == Some(0) {
            number.uint = Some(0);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "what Go does")]
    if let Some(int) = number.int {
        number.float = Some(int as f64);
    } else if let Some(uint) = number.uint {
        number.float = Some(uint as f64);
    } else if let Some(float) = float(text) {
        if !text.contains(['.', 'e', 'E', 'p', 'P']) {
            return Err(format!("integer overflow: {}", crate::print::quoted(text)));
        }
        number.float = Some(float);
        if float.fract() == 0.0 && float.abs() < 9e18 {
            #[expect(clippy::cast_possible_truncation, reason = "it was just compared")]
            let int = float as i64;
            number.int = Some(int);
            number.uint = u64::try_from(int).ok();
        }
    } else {
        return Err(format!("illegal number syntax: {}", crate::print::quoted(text)));
    }
    Ok(number)
}

/// An integer in any of Go's bases, without a sign.
fn integer(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (base, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let prefixed = base != 10;
    u64::from_str_radix(&ungrouped(body, prefixed)?, base).ok()
}

/// Digits without the underscores, each of which must stand between digits or after a prefix.
fn ungrouped(body: &str, prefixed: bool) -> Option<String> {
    if !body.contains('_') {
        return (!body.starts_with(['+', '-'])).then(|| body.to_owned());
    }
    let grouped =
        (prefixed || !body.starts_with('_')) && !body.ends_with('_') && !body.contains("__");
    grouped.then(|| body.replace('_', ""))
}

fn float(text: &str) -> Option<f64> {
    let shaped = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let has_digit = text.bytes().any(|byte| byte.is_ascii_digit());
    let value: f64 = (shaped && has_digit).then(|| text.parse().ok()).flatten()?;
    value.is_finite().then_some(value)
}
