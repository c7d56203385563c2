//! A validated token's claims as the Workload API shows them.

use std::collections::HashSet;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// The claims; for a foreign token (`allowed` is given) only the three that
/// every SVID has and those that the configuration names. `aud` is a list even
/// when the token has it as one text.
pub(super) fn shown(claims: Map<String, Json>, allowed: Option<&HashSet<String>>) -> Struct {
    let fields = claims
        .into_iter()
        .filter(|(name, _)| {
            ALWAYS.contains(&name.as_str()) || allowed.is_none_or(|allowed| allowed.contains(name))
        })
        .map(|(name, claim)| match (name.as_str(), claim) {
            ("aud", one @ Json::String(_)) => (name, value(Json::Array(vec![one]))),
            (_, claim) => (name, value(claim)),
        })
        .collect();
    Struct { fields }
}

fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(yes) => Kind::BoolValue(yes),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(name, field)| (name, value(field))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

const ALWAYS: [&str; 3] = ["sub", "exp", "aud"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Json> {
        let claims = json!({"sub": "spiffe://a/b", "exp": 5, "aud": "x", "scope": {"n": [1, null]}, "iss": "i"});
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn a_single_audience_is_shown_as_a_list() {
        let shown = shown(claims(), None);
        let expected = Kind::ListValue(ListValue { values: vec![value(json!("x"))] });
        assert_eq!(shown.fields["aud"].kind, Some(expected));
        assert_eq!(shown.fields.len(), 5);
    }

    #[test]
    fn foreign_tokens_show_the_standard_claims_and_the_allowed_ones() {
        let allowed = HashSet::from(["scope".to_string()]);
        let names: Vec<String> = shown(claims(), Some(&allowed)).fields.into_keys().collect();
        assert_eq!(names, ["aud", "exp", "scope", "sub"]);
    }
}
