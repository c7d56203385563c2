//! JSON that users write, and what is wrong with it in the words of Go's decoder.

use serde_json::Value;
use serde_json::error::Category;

/// Reads one value.
///
/// # Errors
/// Says what is wrong as Go does, where that is one of the usual mistakes.
pub(crate) fn value(content: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(content).map_err(|error| match error.classify() {
        Category::Eof => "unexpected end of JSON input".to_owned(),
        _ => told(content, &error).unwrap_or_else(|| error.to_string()),
    })
}

fn told(content: &[u8], error: &serde_json::Error) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?;
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?;
    let at = error.column().checked_sub(1)?;
    let wrong = line.get(at..)?.chars().next()?;
    let said = error.to_string();
    let what = if said.starts_with("expected value") {
        "looking for beginning of value".to_owned()
    } else if said.starts_with("invalid number") {
        "in numeric literal".to_owned()
    } else if said.starts_with("trailing characters") {
        "after top-level value".to_owned()
    } else if said.starts_with("key must be a string") {
        "looking for beginning of object key string".to_owned()
    } else if said.starts_with("expected ident") {
        let before = line.get(..at)?;
        let (literal, length) = ["true", "false", "null"].into_iter().find_map(|literal| {
            let length = (1..literal.len()).rev().find(|&it| before.ends_with(&literal[..it]))?;
            Some((literal, length))
        })?;
        let expected = literal.get(length..)?.chars().next()?;
        format!("in literal {literal} (expecting {expected:?})")
    } else {
        return None;
    };
    Some(format!("invalid character {wrong:?} {what}"))
}

/// The kind of a value in Go's words (`cannot unmarshal array into …`).
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_as_go_tells_them() {
        for (text, told) in [
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("garbage", "invalid character 'g' looking for beginning of value"),
            ("-----BEGIN", "invalid character '-' in numeric literal"),
            ("full2", "invalid character 'u' in literal false (expecting 'a')"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("{\n  \"a\": [1,\n x]}", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(value(text.as_bytes()).unwrap_err(), told, "{text}");
        }
        assert!(value(b"{\"a\" 1}").is_err() && value(b"\"\xff\"").is_err());
    }
}
