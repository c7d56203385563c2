//! What Go's JSON reader says of what it cannot read: callers of a SPIRE agent see these texts.

use serde_json::error::Category;
use serde_json::{Error, Map, Value};

use crate::json;

/// Parses an object; `null` is an empty one. `target` is what Go would read it into.
pub(super) fn object(text: &[u8], target: &str) -> Result<Map<String, Value>, String> {
    match json::parse(text).map_err(|error| syntax(text, &error))? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(mismatch(&other, target)),
    }
}

/// A value of another type than `target`.
pub(super) fn mismatch(value: &Value, target: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into Go value of type {target}")
}

fn syntax(text: &[u8], error: &Error) -> String {
    let said = error.to_string();
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    if let Some(name) = said.strip_prefix("duplicate key ").and_then(|rest| rest.split_once(" in "))
    {
        return format!("json: duplicate key {} in object", name.0);
    }
    if said.starts_with("number out of range") {
        return "go-jose/go-jose/jwt: expected number value to unmarshal NumericDate".into();
    }
    let context = CONTEXTS.iter().find(|(ours, _)| said.starts_with(ours));
    match (error.classify(), context, offending(text, error)) {
        (Category::Syntax, Some((_, context)), Some(byte)) => {
            format!("invalid character {} {context}", quoted(byte))
        }
        _ => said,
    }
}

/// The byte at which reading stopped.
fn offending(text: &[u8], error: &Error) -> Option<u8> {
    let line = text.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    line.get(error.column().saturating_sub(1)).copied()
}

/// A character as Go's JSON reader names it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80.. => format!("'{}'", char::from(byte)),
    }
}

const CONTEXTS: [(&str, &str); 9] = [
    ("expected value", "looking for beginning of value"),
    ("trailing characters", "after top-level value"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("key must be a string", "looking for beginning of object key string"),
    ("control character", "in string literal"),
    ("invalid escape", "in string escape code"),
    ("trailing comma", "looking for beginning of value"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        for (json, text) in [
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("\0", r"invalid character '\x00' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,\"a\":2}", "json: duplicate key 'a' in object"),
            ("[]", "json: cannot unmarshal array into Go value of type T"),
            ("7", "json: cannot unmarshal number into Go value of type T"),
        ] {
            assert_eq!(object(json.as_bytes(), "T").unwrap_err(), text, "{json}");
        }
        assert!(object(b" null ", "T").unwrap().is_empty());
    }
}
