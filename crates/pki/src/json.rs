//! JSON as go-jose reads and writes it: duplicate members are refused, members of what is signed
//! are sorted, and `<`, `>`, `&` are escaped.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Parses a document that is one JSON object without duplicate members at any depth.
pub(crate) fn parse_object(text: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    match parse(text)? {
        Value::Object(map) => Ok(map),
        _ => Err(serde_json::Error::custom("expected a JSON object")),
    }
}

/// Parses a document without duplicate members at any depth.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Prints the members of an object without white space, sorted at every depth.
pub(crate) fn to_sorted_string(members: &Map<String, Value>) -> String {
    let mut out = Vec::with_capacity(256);
    put_object(&mut out, members);
    let text = String::from_utf8(out).expect("JSON printed from text is text");
    // What is to be escaped begins with one of these bytes, which few texts have.
    if text.bytes().any(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2)) {
        return escape_html(text);
    }
    text
}

fn put_object(out: &mut Vec<u8>, members: &Map<String, Value>) {
    let put_all = |out: &mut Vec<u8>, members: &mut dyn Iterator<Item = (&String, &Value)>| {
        out.push(b'{');
        for (at, (name, value)) in members.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            put_text(out, name);
            out.push(b':');
            put_value(out, value);
        }
        out.push(b'}');
    };
    if members.keys().is_sorted() {
        return put_all(out, &mut members.iter());
    }
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    put_all(out, &mut sorted.into_iter());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(members) => put_object(out, members),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                put_value(out, item);
            }
            out.push(b']');
        }
        Value::String(text) => put_text(out, text),
        other => serde_json::to_writer(out, other).expect("a Vec takes every write"),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every write");
}

/// These characters stand only inside of strings in JSON, so that plain replacement is right.
pub(crate) fn escape_html(text: String) -> String {
    const SPECIAL: [(char, &str); 5] = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    if !text.contains(SPECIAL.map(|(c, _)| c)) {
        return text;
    }
    SPECIAL.iter().fold(text, |text, (c, escape)| text.replace(*c, escape))
}

/// How much of a name an error repeats.
const MAX_ECHO: usize = 64;

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict)?;
            if map.contains_key(&name) {
                let name: String = name.escape_debug().take(MAX_ECHO).collect();
                return Err(A::Error::custom(format!("duplicate key '{name}' in object")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The same by copies in order.
    fn plainly(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().collect();
                members.sort_unstable_by_key(|(name, _)| *name);
                members.into_iter().map(|(name, value)| (name.clone(), plainly(value))).collect()
            }
            Value::Array(items) => items.iter().map(plainly).collect(),
            other => other.clone(),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!("<a href=\"x\">&\u{2028}\u{2029}\u{2030}\u{7f}\n")),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn printing_in_order_is_putting_in_order_and_printing(
            members in prop::collection::vec((any::<String>(), value()), 0..8),
        ) {
            let members: Map<String, Value> = members.into_iter().collect();
            let expected = escape_html(plainly(&Value::Object(members.clone())).to_string());
            prop_assert_eq!(to_sorted_string(&members), expected);
        }
    }
}
