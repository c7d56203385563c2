//! The shapes that the Go library's decoder moves about in.

use std::sync::Arc;

use crate::{
    ast::{Body, Item, Key, Value},
    block::Captured,
    token::Position,
};

/// An item whose first `used` keys were matched already.
#[derive(Clone, Copy)]
pub(super) struct ItemRef<'a> {
    pub(super) item: &'a Item,
    used: usize,
}

impl<'a> ItemRef<'a> {
    pub(super) fn all(body: &'a Body) -> Vec<Self> {
        body.items.iter().map(|item| Self { item, used: 0 }).collect()
    }

    /// The keys still to match.
    pub(super) fn keys(&self) -> &'a [Arc<Key>] {
        &self.item.keys[self.used..]
    }

    pub(super) fn without_first_key(self) -> Self {
        Self { used: (self.used + 1).min(self.item.keys.len()), ..self }
    }

    /// Where the key that was matched last stands, or else the first.
    pub(super) fn position(&self) -> Position {
        let matched = self.used.saturating_sub(1);
        self.item.keys.get(matched).map(|key| key.token.at).unwrap_or_default()
    }
}

#[derive(Clone)]
pub(super) enum Node<'a> {
    Items(Vec<ItemRef<'a>>),
    Item(ItemRef<'a>),
    Value(&'a Value),
}

impl<'a> Node<'a> {
    /// The place that the Go library names; it has none for JSON.
    pub(super) fn at(&self) -> Position {
        let of_item = |item: &ItemRef<'_>| item.keys().first().map(|key| key.token.at);
        match self {
            Self::Items(items) => items.first().and_then(of_item).unwrap_or_default(),
            Self::Item(item) => of_item(item).unwrap_or_default(),
            Self::Value(value) => value.at(),
        }
    }

    pub(super) fn go_type(&self) -> &'static str {
        match self {
            Self::Items(_) => "*ast.ObjectList",
            Self::Item(_) => "*ast.ObjectItem",
            Self::Value(value) => value.go_type(),
        }
    }

    pub(super) fn unwrapped_go_type(&self) -> &'static str {
        match self {
            Self::Item(item) => item.item.value.go_type(),
            other => other.go_type(),
        }
    }

    /// The items to fill a struct from.
    pub(super) fn struct_items(&self, is_element: bool) -> Option<Vec<ItemRef<'a>>> {
        match self {
            Self::Items(items) => Some(items.clone()),
            Self::Value(Value::Object(object)) => Some(ItemRef::all(&object.body)),
            Self::Value(_) => None,
            // JSON's flattening turned an object of objects into labels.
            Self::Item(item) if is_element && item.keys().len() == 2 => {
                Some(vec![item.without_first_key()])
            }
            Self::Item(item) => match &item.item.value {
                Value::Object(object) => Some(ItemRef::all(&object.body)),
                Value::Literal(_) => Some(vec![*item]),
                Value::List(_) => None,
            },
        }
    }

    /// The items to fill a map from.
    pub(super) fn map_items(&self) -> Option<Vec<ItemRef<'a>>> {
        match self {
            Self::Items(items) => Some(items.clone()),
            Self::Item(item) => Some(vec![*item]),
            Self::Value(Value::Object(object)) => Some(ItemRef::all(&object.body)),
            Self::Value(_) => None,
        }
    }

    /// The elements to append to a list.
    pub(super) fn elements(&self) -> Option<Vec<Node<'a>>> {
        match self {
            Self::Items(items) => Some(items.iter().copied().map(Node::Item).collect()),
            Self::Value(Value::List(list)) => Some(list.values.iter().map(Node::Value).collect()),
            Self::Value(object @ Value::Object(_)) => Some(vec![Node::Value(object)]),
            Self::Item(_) | Self::Value(Value::Literal(_)) => None,
        }
    }

    pub(super) fn capture(&self) -> Captured {
        let own = |item: &ItemRef<'_>| Item { keys: item.keys().to_vec(), ..item.item.clone() };
        match self {
            Self::Items(items) => Captured::Body(Body { items: items.iter().map(own).collect() }),
            Self::Item(item) => Captured::Body(Body { items: vec![own(item)] }),
            Self::Value(Value::Object(object)) => Captured::Body(object.body.clone()),
            Self::Value(value) => Captured::Value((*value).clone()),
        }
    }
}
