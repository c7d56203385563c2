//! `{"a": {"b": {…}}}` becomes `a "b" { … }`, and a list of objects becomes a
//! repeated key, so that JSON looks like HCL to whoever decodes it.

use crate::ast::{Body, Item, Object, Value};

pub(super) fn flatten(body: Body) -> Body {
    let mut items = Vec::with_capacity(body.items.len());
    let mut frontier = body.items;
    // Last first, and reversed at the end: the order of the library.
    while let Some(item) = frontier.pop() {
        match item.value {
            Value::Object(object) if all_objects(&object) => {
                for inner in object.body.items {
                    let mut keys = item.keys.clone();
                    keys.extend(inner.keys);
                    frontier.push(Item {
                        keys,
                        assigned: item.assigned,
                        value: inner.value,
                        lead_comment: Vec::new(),
                        line_comment: Vec::new(),
                    });
                }
            }
            Value::List(list)
                if !list.values.is_empty()
                    && list.values.iter().all(|value| matches!(value, Value::Object(_))) =>
            {
                for value in list.values {
                    frontier.push(Item {
                        keys: item.keys.clone(),
                        assigned: item.assigned,
                        value,
                        lead_comment: Vec::new(),
                        line_comment: Vec::new(),
                    });
                }
            }
            value => items.push(Item { value: descend(value), ..item }),
        }
    }
    items.reverse();
    Body { items }
}

fn all_objects(object: &Object) -> bool {
    !object.body.items.is_empty()
        && object.body.items.iter().all(|item| matches!(item.value, Value::Object(_)))
}

fn descend(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(Object { body: flatten(object.body), ..object }),
        Value::List(mut list) => {
            list.values = list.values.into_iter().map(descend).collect();
            Value::List(list)
        }
        literal @ Value::Literal(_) => literal,
    }
}
