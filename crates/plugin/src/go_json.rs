//! Small JSON messages as Go's `encoding/json` reads them, since that is what evidence and
//! challenges are written by and for: names of fields in any case, the last of several wins, `null`
//! says nothing, bytes are base64. What cannot be read is told in Go's words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::error::Category;
use serde_json::{Map, Value};

/// How much of a message an error repeats: nothing but what kind of value it holds.
const NULL: Value = Value::Null;

/// An object and the name of the Go struct that it is read into.
#[derive(Clone, Debug)]
pub struct Object {
    fields: Map<String, Value>,
    name: &'static str,
}

impl Object {
    /// Reads a message. `target` is the Go type that errors name, such as `x509pop.Response`. The
    /// caller has bounded the length.
    ///
    /// # Errors
    /// When it is no JSON, or no object.
    pub fn parse(text: &[u8], target: &'static str) -> Result<Self, String> {
        let value = serde_json::from_slice(text).map_err(|error| syntax(text, &error))?;
        let name = target.rsplit_once('.').map_or(target, |(_, name)| name);
        match value {
            Value::Object(fields) => Ok(Self { fields, name }),
            Value::Null => Ok(Self { fields: Map::new(), name }),
            other => {
                let kind = kind(&other);
                Err(format!("json: cannot unmarshal {kind} into Go value of type {target}"))
            }
        }
    }

    /// A field of bytes; empty when it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn bytes(&self, field: &str) -> Result<Vec<u8>, String> {
        match self.field(field) {
            Value::Null => Ok(Vec::new()),
            Value::String(text) => base64(text),
            other => Err(self.mismatch(other, field, "[]uint8")),
        }
    }

    /// A field that is a list of bytes, of which no more than `most` are read; empty when it is
    /// missing. Also gives how many there are.
    ///
    /// # Errors
    /// When it is something else.
    pub fn list_of_bytes(&self, field: &str, most: usize) -> Result<(Vec<Vec<u8>>, usize), String> {
        let list = match self.field(field) {
            Value::Null => return Ok((Vec::new(), 0)),
            Value::Array(list) => list,
            other => return Err(self.mismatch(other, field, "[][]uint8")),
        };
        let read = list.iter().take(most).map(|item| match item {
            Value::Null => Ok(Vec::new()),
            Value::String(text) => base64(text),
            other => Err(self.mismatch(other, field, "[]uint8")),
        });
        Ok((read.collect::<Result<_, _>>()?, list.len()))
    }

    /// A field of text; empty when it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, field: &str) -> Result<&str, String> {
        match self.field(field) {
            Value::Null => Ok(""),
            Value::String(text) => Ok(text),
            other => Err(self.mismatch(other, field, "string")),
        }
    }

    /// A field that is an integer; zero when it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&self, field: &str) -> Result<i64, String> {
        match self.field(field) {
            Value::Null => Ok(0),
            Value::Number(number) => number.as_i64().ok_or_else(|| {
                let name = self.name;
                format!(
                    "json: cannot unmarshal number {number} into Go struct field {name}.{field} \
                     of type int"
                )
            }),
            other => Err(self.mismatch(other, field, "int")),
        }
    }

    /// A field that is an object; none when it is missing. `target` as for [`Object::parse`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn object(&self, field: &str, target: &'static str) -> Result<Option<Self>, String> {
        let name = target.rsplit_once('.').map_or(target, |(_, name)| name);
        match self.field(field) {
            Value::Null => Ok(None),
            Value::Object(fields) => Ok(Some(Self { fields: fields.clone(), name })),
            other => Err(self.mismatch(other, field, target)),
        }
    }

    fn field(&self, name: &str) -> &Value {
        let fits =
            |(key, value): (&String, &Value)| key.eq_ignore_ascii_case(name) && !value.is_null();
        let mut last = &NULL;
        for (key, value) in &self.fields {
            if fits((key, value)) {
                last = value;
            }
        }
        last
    }

    fn mismatch(&self, value: &Value, field: &str, target: &str) -> String {
        let (kind, name) = (kind(value), self.name);
        format!(
            "json: cannot unmarshal {kind} into Go struct field {name}.{field} of type {target}"
        )
    }
}

/// Bytes as Go's JSON writes them.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Line ends between the characters are passed over, as in Go.
fn base64(text: &str) -> Result<Vec<u8>, String> {
    let joined: String;
    let text = if text.contains(['\r', '\n']) {
        joined = text.replace(['\r', '\n'], "");
        &joined
    } else {
        text
    };
    STANDARD.decode(text).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                text.len() / 4 * 4
            }
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn syntax(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let said = error.to_string();
    let context = CONTEXTS.iter().find(|(ours, _)| said.starts_with(ours));
    match (error.classify(), context, offending(text, error)) {
        (Category::Syntax, Some((_, context)), Some(byte)) => {
            format!("invalid character {} {context}", quoted(byte))
        }
        _ => said.chars().take(120).collect(),
    }
}

fn offending(text: &[u8], error: &serde_json::Error) -> Option<u8> {
    let line = text.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    line.get(error.column().saturating_sub(1)).copied()
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

const CONTEXTS: [(&str, &str); 10] = [
    ("expected value", "looking for beginning of value"),
    ("expected ident", "in literal"),
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
    fn fields_are_found_as_go_finds_them() {
        let text =
            br#"{"nonce":"AAE=","NONCE":"Ag==","nonce2":null,"o":{"A":"b"},"l":["AA==",null]}"#;
        let object = Object::parse(text, "x.Y").unwrap();
        assert_eq!(object.bytes("Nonce").unwrap(), [2]);
        assert!(
            object.bytes("nonce2").unwrap().is_empty() && object.bytes("x").unwrap().is_empty()
        );
        assert_eq!(object.object("o", "x.Z").unwrap().unwrap().text("a").unwrap(), "b");
        assert!(object.object("nonce2", "x.Z").unwrap().is_none());
        assert_eq!(object.list_of_bytes("l", 1).unwrap(), (vec![vec![0]], 2));
        assert_eq!(object.list_of_bytes("l", 9).unwrap(), (vec![vec![0], vec![]], 2));
        assert!(Object::parse(b" null ", "x.Y").unwrap().bytes("a").unwrap().is_empty());
        assert_eq!(base64("AA\n==\r\n").unwrap(), [0]);
    }

    #[test]
    fn texts_are_those_of_go() {
        for (json, text) in [
            ("", "unexpected end of JSON input"),
            ("payload", "invalid character 'p' looking for beginning of value"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("[]", "json: cannot unmarshal array into Go value of type x509pop.Response"),
        ] {
            let error = Object::parse(json.as_bytes(), "x509pop.Response").unwrap_err();
            assert_eq!(error, text, "{json}");
        }
        let object = Object::parse(br#"{"a":7,"b":"!","c":"AA=","d":["x",1]}"#, "x.Y").unwrap();
        let field = "json: cannot unmarshal number into Go struct field Y.a of type []uint8";
        assert_eq!(object.bytes("a").unwrap_err(), field);
        assert_eq!(object.bytes("b").unwrap_err(), "illegal base64 data at input byte 0");
        assert!(object.bytes("c").unwrap_err().starts_with("illegal base64 data at input byte"));
        assert!(object.list_of_bytes("d", 9).is_err() && object.list_of_bytes("a", 9).is_err());
        assert!(object.text("a").is_err() && object.object("a", "x.Z").is_err());
    }
}
