//! `-output pretty|json`: how results are printed.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Number, Value};

use crate::dispatch::Failure;
use crate::flags::FlagSet;

/// The chosen format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    Pretty,
    Json,
}

impl Output {
    /// Declares `-output`.
    pub(crate) fn declare(flags: &mut FlagSet) {
        flags.output("output", "Desired output format (pretty, json); default: pretty.");
    }

    /// Reads it back.
    pub(crate) fn of(flags: &FlagSet) -> Self {
        if flags.str("output") == "json" { Self::Json } else { Self::Pretty }
    }

    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }
}

/// A message together with its full protobuf name.
pub(crate) struct Named<'a, M>(pub(crate) &'static str, pub(crate) &'a M);

/// A protobuf message as protojson with proto names and unpopulated fields,
/// nulls removed and keys sorted.
pub(crate) fn proto_value<M: Message>(message: &Named<'_, M>) -> Result<Value, Failure> {
    let pool = DescriptorPool::decode(steeple_proto::DESCRIPTORS)
        .map_err(|error| Failure(format!("internal error: descriptors: {error}")))?;
    let descriptor = pool
        .get_message_by_name(message.0)
        .ok_or_else(|| Failure(format!("internal error: no descriptor of {}", message.0)))?;
    let dynamic = DynamicMessage::decode(descriptor, message.1.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let value = dynamic.serialize_with_options(serde_json::value::Serializer, &options)?;
    Ok(tidy(value))
}

/// One line of JSON as Go's encoder writes it.
pub(crate) fn line(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        // Go escapes what could be taken for HTML; these occur in strings only.
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text.push('\n');
    text
}

/// A message as one JSON line.
pub(crate) fn proto_line<M: Message>(message: &Named<'_, M>) -> Result<String, Failure> {
    Ok(line(&proto_value(message)?))
}

fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> =
                map.into_iter().filter(|(_, member)| !member.is_null()).collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(members.into_iter().map(|(key, value)| (key, tidy(value))).collect())
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().filter(|item| !item.is_null()).map(tidy).collect())
        }
        Value::Number(number) => Value::Number(whole(&number).unwrap_or(number)),
        other => other,
    }
}

/// A number of a `Struct` as Go prints it: without a fraction where there is none.
fn whole(number: &Number) -> Option<Number> {
    /// From here on not every whole number is one of these.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let value = number.as_f64().filter(|_| number.is_f64())?;
    (value.fract() == 0.0 && value.abs() <= EXACT).then(|| Number::from(value as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_fraction() {
        let value = serde_json::json!({"exp": 1_795_000_000.0, "half": 0.5, "list": [-1.0]});
        let told = "{\"exp\":1795000000,\"half\":0.5,\"list\":[-1]}\n";
        assert_eq!(line(&tidy(value)), told);
    }

    #[test]
    fn nulls_go_and_keys_are_sorted_at_every_depth() {
        let value = serde_json::json!({"b": null, "c": [null, {"z": 1, "a": null}], "a": "<&>"});
        assert_eq!(line(&tidy(value)), "{\"a\":\"\\u003c\\u0026\\u003e\",\"c\":[{\"z\":1}]}\n");
    }
}
