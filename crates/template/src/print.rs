//! Values as Go's `fmt` writes them.

use std::fmt::Write as _;

use crate::heap::{Heap, MAX_DEPTH, MAX_STRING, Val};

/// What an action writes for a value.
pub(crate) fn shown(heap: &mut Heap, value: &Val) -> Result<String, String> {
    match value {
        Val::Nil => Ok("<no value>".to_owned()),
        value => plain(heap, value),
    }
}

/// `%v`.
pub(crate) fn plain(heap: &mut Heap, value: &Val) -> Result<String, String> {
    let mut out = String::new();
    write_value(heap, &mut out, value, &|out, value| plain_scalar(out, value), 0)?;
    Ok(out)
}

/// `fmt.Sprint`: a space between operands that are both no strings.
pub(crate) fn sprint(heap: &mut Heap, values: &[Val]) -> Result<String, String> {
    let mut out = String::new();
    let mut after_string = true;
    for (position, value) in values.iter().enumerate() {
        let is_string = matches!(value, Val::Str(_));
        if position > 0 && !is_string && !after_string {
            out.push(' ');
        }
        out.push_str(&plain(heap, value)?);
        heap.afford(out.len())?;
        after_string = is_string;
    }
    Ok(out)
}

/// Writes a value, and what it holds, each scalar by `scalar`.
fn write_value(
    heap: &mut Heap,
    out: &mut String,
    value: &Val,
    scalar: &dyn Fn(&mut String, &Val),
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("a value is nested too deeply".to_owned());
    }
    if out.len() > MAX_STRING {
        return Err("the template makes a string that is too long".to_owned());
    }
    heap.spend(1)?;
    match value {
        Val::List(at) => {
            let items = heap.list_at(*at).items.clone();
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(' ');
                }
                write_value(heap, out, item, scalar, depth + 1)?;
            }
            out.push(']');
        }
        Val::Map(at) => {
            let items = heap.map_at(*at).items.clone();
            heap.spend(items.len())?;
            out.push_str("map[");
            for (position, (key, item)) in items.iter().enumerate() {
                if position > 0 {
                    out.push(' ');
                }
                scalar(out, &Val::Str(key.clone()));
                out.push(':');
                write_value(heap, out, item, scalar, depth + 1)?;
            }
            out.push(']');
        }
        Val::Record(at) => {
            if let Some(text) = heap.record_at(*at).text.clone() {
                scalar(out, &Val::Str(text));
                return Ok(());
            }
            let fields: Vec<_> =
                heap.record_at(*at).fields.iter().map(|(_, value)| value.clone()).collect();
            out.push('{');
            for (position, field) in fields.iter().enumerate() {
                if position > 0 {
                    out.push(' ');
                }
                write_value(heap, out, field, scalar, depth + 1)?;
            }
            out.push('}');
        }
        value => scalar(out, value),
    }
    Ok(())
}

fn plain_scalar(out: &mut String, value: &Val) {
    // Writing to a string does not fail.
    let _ = match value {
        Val::Bool(value) => write!(out, "{value}"),
        Val::Int(value) => write!(out, "{value}"),
        Val::Uint(value) => write!(out, "{value}"),
        Val::Byte(value) => write!(out, "{value}"),
        Val::Float(value) => write!(out, "{}", general(*value)),
        Val::Str(value) => write!(out, "{value}"),
        _ => write!(out, "<nil>"),
    };
}

/// A float in the shortest form that reads back, as `%v` writes it.
fn general(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        return format!("{mantissa}e{}", signed_exponent(exponent));
    }
    format!("{value}")
}

fn signed_exponent(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{:02}", exponent.abs())
}

/// `%q` of a string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            c => escape(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn escape(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if u32::from(c) < 0x20 || c == '\u{7f}' => {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
        c if is_unprintable(c) => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// Whether Go escapes a character: controls, what only looks like a space, and what has no looks.
fn is_unprintable(c: char) -> bool {
    let shapeless = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}');
    shapeless || c == '\u{feff}' || c.is_control() || (c.is_whitespace() && c != ' ')
}

/// A verb of `printf` with its flags.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The widest that a verb may be padded to.
const MAX_WIDTH: usize = 1024;

/// `fmt.Sprintf`.
pub(crate) fn sprintf(heap: &mut Heap, format: &str, args: &[Val]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = format;
    let mut next = 0;
    let mut reordered = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let spec = spec(&mut rest, args, &mut next)?;
        reordered |= chosen(&mut rest, &mut next);
        let Some(verb) = rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = args.get(next) else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        next += 1;
        let piece = verb_text(heap, spec, verb, value)?;
        out.push_str(&piece);
        heap.afford(out.len())?;
    }
    if !out.ends_with("%!(NOVERB)") {
        out.push_str(rest);
    }
    if next < args.len() && !reordered {
        out.push_str("%!(EXTRA ");
        for (position, value) in args[next..].iter().enumerate() {
            if position > 0 {
                out.push_str(", ");
            }
            match value {
                Val::Nil => out.push_str("<nil>"),
                value => {
                    let text = plain(heap, value)?;
                    let _ = write!(out, "{}={text}", heap.type_name(value));
                }
            }
        }
        out.push(')');
    }
    heap.afford(out.len())?;
    Ok(out)
}

/// Takes `[n]`, which chooses the argument.
fn chosen(rest: &mut &str, next: &mut usize) -> bool {
    let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let number = inner.and_then(|(number, after)| Some((number.parse::<usize>().ok()?, after)));
    let Some((number @ 1.., after)) = number else { return false };
    *next = number - 1;
    *rest = after;
    true
}

fn spec(rest: &mut &str, args: &[Val], next: &mut usize) -> Result<Spec, String> {
    let mut spec = Spec::default();
    while let Some(flag) = rest.chars().next() {
        match flag {
            '+' => spec.plus = true,
            '-' => spec.minus = true,
            '#' => spec.sharp = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            _ => break,
        }
        *rest = &rest[1..];
    }
    spec.width = width(rest, args, next)?;
    if let Some(after) = rest.strip_prefix('.') {
        *rest = after;
        spec.precision = Some(width(rest, args, next)?.unwrap_or(0));
    }
    Ok(spec)
}

fn width(rest: &mut &str, args: &[Val], next: &mut usize) -> Result<Option<usize>, String> {
    let too_wide = || "the template pads too far".to_owned();
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        let value = args.get(*next).cloned();
        *next += 1;
        return match value {
            Some(Val::Int(width)) => {
                let width = usize::try_from(width).map_err(|_| too_wide())?;
                (width <= MAX_WIDTH).then_some(Some(width)).ok_or_else(too_wide)
            }
            _ => Ok(None),
        };
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    let width: usize = digits.parse().map_err(|_| too_wide())?;
    (width <= MAX_WIDTH).then_some(Some(width)).ok_or_else(too_wide)
}

fn verb_text(heap: &mut Heap, spec: Spec, verb: char, value: &Val) -> Result<String, String> {
    if verb == 'T' {
        return Ok(pad(spec, heap.type_name(value)));
    }
    if matches!(value, Val::Nil) {
        return Ok(match verb {
            'v' => pad(spec, "<nil>".to_owned()),
            verb => format!("%!{verb}(<nil>)"),
        });
    }
    let types = |value: &Val| match value {
        Val::Str(_) => "string",
        Val::Bool(_) => "bool",
        Val::Int(_) => "int",
        Val::Uint(_) => "uint64",
        Val::Byte(_) => "uint8",
        Val::Float(_) => "float64",
        _ => "<nil>",
    };
    let mut out = String::new();
    let scalar = |out: &mut String, value: &Val| match formatted(spec, verb, value) {
        Some(text) => out.push_str(&text),
        None if matches!(value, Val::Nil) && verb == 'v' => out.push_str("<nil>"),
        None if matches!(value, Val::Nil) => {
            let _ = write!(out, "%!{verb}(<nil>)");
        }
        None => {
            let _ = write!(out, "%!{verb}({}=", types(value));
            plain_scalar(out, value);
            out.push(')');
        }
    };
    write_value(heap, &mut out, value, &scalar, 0)?;
    Ok(out)
}

/// A scalar by a verb that fits it.
fn formatted(spec: Spec, verb: char, value: &Val) -> Option<String> {
    Some(match (value, verb) {
        (Val::Str(text), 'v' | 's') if !(spec.sharp && verb == 'v') => pad(spec, cut(spec, text)),
        (Val::Str(text), 'q' | 'v') => {
            let text = cut(spec, text);
            let raw = spec.sharp && verb == 'q' && !text.contains(['`', '\n', '\r']);
            pad(spec, if raw { format!("`{text}`") } else { quoted(&text) })
        }
        (Val::Str(text), 'x' | 'X') => pad(spec, hex(spec, text.as_bytes(), verb)),
        (Val::Bool(value), 't' | 'v') => pad(spec, value.to_string()),
        (Val::Int(value), _) => integer(spec, verb, i128::from(*value))?,
        (Val::Uint(value), _) => integer(spec, verb, i128::from(*value))?,
        (Val::Byte(value), _) => integer(spec, verb, i128::from(*value))?,
        (Val::Float(value), _) => float(spec, verb, *value)?,
        _ => return None,
    })
}

fn cut(spec: Spec, text: &str) -> String {
    text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect()
}

fn hex(spec: Spec, bytes: &[u8], verb: char) -> String {
    let mut out = String::with_capacity(3 * bytes.len());
    for (position, byte) in bytes.iter().enumerate() {
        if spec.space && position > 0 {
            out.push(' ');
        }
        let _ = match verb {
            'x' => write!(out, "{byte:02x}"),
            _ => write!(out, "{byte:02X}"),
        };
    }
    out
}

fn integer(spec: Spec, verb: char, value: i128) -> Option<String> {
    let magnitude = value.unsigned_abs();
    let (digits, prefix) = match verb {
        'd' | 'v' => (magnitude.to_string(), ""),
        'b' => (format!("{magnitude:b}"), if spec.sharp { "0b" } else { "" }),
        'o' => (format!("{magnitude:o}"), if spec.sharp { "0" } else { "" }),
        'O' => (format!("{magnitude:o}"), "0o"),
        'x' => (format!("{magnitude:x}"), if spec.sharp { "0x" } else { "" }),
        'X' => (format!("{magnitude:X}"), if spec.sharp { "0X" } else { "" }),
        'c' => return Some(pad(spec, character(value).to_string())),
        'q' => {
            let mut out = "'".to_owned();
            match character(value) {
                '\'' => out.push_str("\\'"),
                c => escape(&mut out, c),
            }
            out.push('\'');
            return Some(pad(spec, out));
        }
        'U' => return Some(pad(spec, format!("U+{magnitude:04X}"))),
        _ => return None,
    };
    let sign = match () {
        () if value < 0 => "-",
        () if spec.plus => "+",
        () if spec.space => " ",
        () => "",
    };
    if spec.precision == Some(0) && value == 0 {
        return Some(pad(spec, String::new()));
    }
    let least = match spec.precision {
        Some(precision) => precision,
        None if spec.zero && !spec.minus => spec.width.unwrap_or(0).saturating_sub(sign.len()),
        None => 0,
    };
    let spec = if spec.precision.is_some() { Spec { zero: false, ..spec } } else { spec };
    Some(pad(spec, format!("{sign}{prefix}{digits:0>least$}")))
}

fn character(value: i128) -> char {
    u32::try_from(value).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn float(spec: Spec, verb: char, value: f64) -> Option<String> {
    let precision = spec.precision;
    let mut text = match verb {
        'f' | 'F' => format!("{value:.*}", precision.unwrap_or(6)),
        'e' | 'E' => {
            let text = format!("{value:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e')?;
            format!("{mantissa}e{}", signed_exponent(exponent.parse().ok()?))
        }
        'v' | 'g' | 'G' if precision.is_none() => general(value),
        _ => return None,
    };
    if verb.is_ascii_uppercase() {
        text.make_ascii_uppercase();
    }
    if value >= 0.0 && spec.plus {
        text.insert(0, '+');
    } else if value >= 0.0 && spec.space {
        text.insert(0, ' ');
    }
    let negative = text.starts_with(['-', '+']);
    if spec.zero && !spec.minus && negative {
        let width = spec.width.unwrap_or(0).saturating_sub(1);
        return Some(format!("{}{:0>width$}", &text[..1], &text[1..]));
    }
    Some(pad(spec, text))
}

fn pad(spec: Spec, text: String) -> String {
    let width = spec.width.unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    match (spec.minus, spec.zero) {
        (true, _) => text + &" ".repeat(missing),
        (false, true) => "0".repeat(missing) + &text,
        (false, false) => " ".repeat(missing) + &text,
    }
}
