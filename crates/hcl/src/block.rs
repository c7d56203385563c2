//! The public face of the tree.

use std::cell::RefCell;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

use crate::{
    ast::{Body, Item, Value},
    decode,
    error::{Error, Errors},
    printer,
    token::Position,
};

/// A part of a configuration: a file, the content of a block, or the value of a
/// key, kept as a tree for decoding later.
///
/// A field of this type in a decoded struct captures whatever the key holds;
/// of several blocks of that name, the first.
#[derive(Clone, PartialEq)]
pub struct Block {
    pub(crate) node: Captured,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Captured {
    Body(Body),
    Value(Value),
}

/// What a block was decoded into.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The decoded type.
    pub value: T,
    /// Keys that the type has no field for, in order of appearance. As in the
    /// Go library, quoted keys of HCL are never among them, nor those of
    /// labelled blocks other than the first.
    pub unknown: Vec<UnknownKey>,
}

/// A key that means nothing to whoever decoded the block it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The block, as `root.server`; elements of lists as `root.x[0]`.
    pub section: String,
    /// The key as written.
    pub key: String,
    /// Where it stands.
    pub position: Position,
}

/// A pair of keys, as in `NodeAttestor "join_token" { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The first key.
    pub kind: String,
    /// The second key or label.
    pub name: String,
    /// Where the second key stands.
    pub position: Position,
}

impl Block {
    /// Reads a text by [`crate::parse`].
    ///
    /// # Errors
    /// As `crate::parse`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        crate::parse(text.as_bytes())
    }

    pub(crate) fn of_body(body: Body) -> Self {
        Self { node: Captured::Body(body) }
    }

    /// Decodes by HCL v1's rules: keys match without regard to case, repeated
    /// blocks merge, quoted numbers are numbers, numbers are strings.
    ///
    /// # Errors
    /// Everything that does not fit, as far as [`crate::Located`] fields let
    /// decoding go on.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Decoded<T>, Errors> {
        decode::decode(&self.node)
    }

    /// The text of this part in HCL's canonical layout, without a last newline.
    pub fn to_hcl(&self) -> String {
        match &self.node {
            Captured::Body(body) => printer::print_body(body),
            Captured::Value(value) => printer::print_value(value),
        }
    }

    /// Whether this is the content of a block (`{ … }`), not a scalar or list.
    pub fn is_body(&self) -> bool {
        matches!(self.node, Captured::Body(_))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.node, Captured::Body(body) if body.items.is_empty())
    }

    /// How many items stand directly in it; a value that is no block has none.
    pub fn len(&self) -> usize {
        match &self.node {
            Captured::Body(body) => body.items.len(),
            Captured::Value(_) => 0,
        }
    }

    /// Where its first item starts; unknown when it is empty.
    pub fn position(&self) -> Position {
        match &self.node {
            Captured::Body(body) => body.items.first().map(item_position).unwrap_or_default(),
            Captured::Value(value) => value.at(),
        }
    }

    /// Every pair of nested keys or key and label, in the order written,
    /// whether as `A "b" { … }`, `A { b { … } }` or `"A" "b" key { … }`.
    pub fn labelled(&self) -> Vec<Labelled> {
        let mut found = Vec::new();
        match &self.node {
            Captured::Body(body) => walk_body(body, None, &mut found),
            Captured::Value(value) => walk_value(value, None, &mut found),
        }
        found
    }
}

fn item_position(item: &Item) -> Position {
    item.keys.first().map(|key| key.token.at).unwrap_or_default()
}

fn walk_body(body: &Body, outer: Option<&str>, found: &mut Vec<Labelled>) {
    for item in &body.items {
        let mut names = outer.into_iter().chain(item.keys.iter().map(|key| key.name.as_str()));
        let (first, second) = (names.next(), names.next());
        match (first, second) {
            (Some(kind), Some(name)) => {
                let label = &item.keys[usize::from(outer.is_none())];
                found.push(Labelled {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    position: label.token.at,
                });
            }
            (outer, _) => walk_value(&item.value, outer, found),
        }
    }
}

fn walk_value(value: &Value, outer: Option<&str>, found: &mut Vec<Labelled>) {
    match value {
        Value::Literal(_) => {}
        Value::List(list) => list.values.iter().for_each(|value| walk_value(value, outer, found)),
        Value::Object(object) => walk_body(&object.body, outer, found),
    }
}

impl std::fmt::Debug for Block {
    /// Shape only: a block may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} items at {})", self.len(), self.position())
    }
}

/// The name under which a `Block` asks the decoder for the tree itself.
pub(crate) const CAPTURE: &str = "$steeple_hcl::Block";

thread_local! {
    /// Hands a tree from the decoder to `Block::deserialize`, one call apart:
    /// serde has no other way to pass a value that is not of its own model.
    static HANDED: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

pub(crate) fn hand_over(node: Captured) {
    HANDED.with_borrow_mut(|handed| *handed = Some(node));
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taker;
        impl de::Visitor<'_> for Taker {
            type Value = Block;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a block of HCL")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Block, E> {
                HANDED
                    .with_borrow_mut(Option::take)
                    .map(|node| Block { node })
                    .ok_or_else(|| E::custom("a block can be read from HCL only"))
            }
        }
        deserializer.deserialize_newtype_struct(CAPTURE, Taker)
    }
}
