//! Fields of structs, entries of maps, elements of lists.

use std::{
    collections::{BTreeSet, HashMap},
    vec,
};

use serde::de::{
    DeserializeSeed, Error as _, MapAccess, SeqAccess,
    value::{StrDeserializer, StringDeserializer},
};

use super::{Context, ItemRef, Node, Nodes, position_numbers};
use crate::{
    ast::{Value, equal_fold, fold},
    block::UnknownKey,
    error::Error,
    token::{Kind, Position},
};

/// The fields of a struct that the text has something for.
pub(super) struct Fields<'a> {
    fields: vec::IntoIter<(&'static str, Nodes<'a>)>,
    current: Option<Nodes<'a>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        parent: &Nodes<'a>,
        bodies: &[Vec<ItemRef<'a>>],
        fields: &'static [&'static str],
    ) -> Self {
        let found = fields.iter().filter_map(|&name| {
            let mut nodes = Vec::new();
            let mut position = Position::default();
            for body in bodies {
                let matches: Vec<ItemRef<'a>> = matching(body, name);
                let (labelled, plain): (Vec<_>, Vec<_>) =
                    matches.iter().copied().partition(|item| !item.keys().is_empty());
                if let Some(last) = matches.last() {
                    position = last.position();
                }
                if !labelled.is_empty() {
                    nodes.push(Node::Items(labelled));
                }
                nodes.extend(plain.iter().map(|item| match &item.item.value {
                    Value::Object(object) => Node::Items(ItemRef::all(&object.body)),
                    value => Node::Value(value),
                }));
            }
            let path = format!("{}.{name}", parent.path);
            (!nodes.is_empty()).then(|| (name, parent.child(path, position, nodes)))
        });
        let found: Vec<_> = found.collect();
        for body in bodies {
            note_unknown(parent, body, fields);
        }
        Self { fields: found.into_iter(), current: None }
    }
}

fn matching<'a>(body: &[ItemRef<'a>], name: &str) -> Vec<ItemRef<'a>> {
    let matches = body
        .iter()
        .filter(|item| item.keys().first().is_some_and(|key| equal_fold(&key.name, name)));
    matches.map(|item| item.without_first_key()).collect()
}

/// Keys without a field, by the library's rule: quoted keys of HCL and labelled
/// blocks other than the first are passed over.
fn note_unknown(parent: &Nodes<'_>, body: &[ItemRef<'_>], fields: &[&str]) {
    for (index, item) in body.iter().enumerate() {
        let keys = item.keys();
        if index > 0 && keys.len() > 1 {
            continue;
        }
        for key in keys {
            let counts = key.token.kind == Kind::Ident || key.token.json;
            if counts && !fields.iter().any(|field| equal_fold(field, &key.name)) {
                parent.context.unknown.borrow_mut().push(UnknownKey {
                    section: parent.path.clone(),
                    key: key.name.clone(),
                    position: key.token.at,
                });
            }
        }
    }
}

/// Decodes a field and notes what goes wrong with its place.
fn decode_noting<'de, S: DeserializeSeed<'de>>(
    seed: S,
    nodes: Nodes<'_>,
) -> Result<S::Value, Error> {
    let (context, position, path) = (nodes.context, nodes.position, nodes.path.clone());
    seed.deserialize(nodes).map_err(|error| context.note(error, position, &path))
}

fn out_of_order() -> Error {
    Error::custom("value asked for before its key")
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((name, nodes)) = self.fields.next() else { return Ok(None) };
        self.current = Some(nodes);
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        decode_noting(seed, self.current.take().ok_or_else(out_of_order)?)
    }
}

/// The entries of a map, each key once.
pub(super) struct MapItems<'a> {
    entries: vec::IntoIter<(String, Nodes<'a>)>,
    current: Option<Nodes<'a>>,
}

impl<'a> MapItems<'a> {
    pub(super) fn new(parent: &Nodes<'a>, bodies: &[Vec<ItemRef<'a>>]) -> Result<Self, Error> {
        let mut order: Vec<(String, Nodes<'a>)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for body in bodies {
            // Found once, so that a file of a million labels stays quick.
            let mut folded: HashMap<String, Vec<ItemRef<'a>>> = HashMap::new();
            for item in body {
                if let Some(key) = item.keys().first() {
                    let key = key.name.chars().map(fold).collect();
                    folded.entry(key).or_default().push(*item);
                }
            }
            let mut done = BTreeSet::new();
            for item in body {
                let Some(key) = item.keys().first() else {
                    let node = Node::Items(body.clone());
                    return Err(parent.misfit(&node, "map must have string keys"));
                };
                let name = key.name.as_str();
                if done.contains(name) {
                    continue;
                }
                let node = if item.keys().len() > 1 {
                    done.insert(name);
                    let same = folded.get(&name.chars().map(fold).collect::<String>());
                    let same = same.into_iter().flatten().map(|item| item.without_first_key());
                    Node::Items(same.collect())
                } else {
                    Node::Value(&item.item.value)
                };
                let place = *places.entry(name).or_insert_with(|| {
                    let path = format!("{}.{name}", parent.path);
                    order.push((name.to_owned(), parent.child(path, key.token.at, Vec::new())));
                    order.len() - 1
                });
                order[place].1.nodes.push(node);
            }
        }
        Ok(Self { entries: order.into_iter(), current: None })
    }
}

impl<'de> MapAccess<'de> for MapItems<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((name, nodes)) = self.entries.next() else { return Ok(None) };
        self.current = Some(nodes);
        seed.deserialize(StringDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        decode_noting(seed, self.current.take().ok_or_else(out_of_order)?)
    }
}

/// The elements of a list.
pub(super) struct Elements<'a> {
    context: &'a Context,
    elements: std::iter::Enumerate<vec::IntoIter<Node<'a>>>,
    path: String,
    position: Position,
}

impl<'a> Elements<'a> {
    pub(super) fn new(parent: &Nodes<'a>, elements: Vec<Node<'a>>) -> Self {
        Self {
            context: parent.context,
            elements: elements.into_iter().enumerate(),
            path: parent.path.clone(),
            position: parent.position,
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.elements.next() else { return Ok(None) };
        let at = node.at();
        let nodes = Nodes {
            context: self.context,
            path: format!("{}[{index}]", self.path),
            position: if at.line > 0 { at } else { self.position },
            nodes: vec![node],
            is_element: true,
        };
        decode_noting(seed, nodes).map(Some)
    }
}

/// The place and the value that make a `Located`.
pub(super) struct LocatedPair<'a> {
    nodes: Option<Nodes<'a>>,
    place_given: bool,
}

impl<'a> LocatedPair<'a> {
    pub(super) fn new(nodes: Nodes<'a>) -> Self {
        Self { nodes: Some(nodes), place_given: false }
    }
}

impl<'de> SeqAccess<'de> for LocatedPair<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if !self.place_given {
            self.place_given = true;
            let position = self.nodes.as_ref().map(|nodes| nodes.position).unwrap_or_default();
            return seed.deserialize(position_numbers(position)).map(Some);
        }
        let nodes = self.nodes.take().ok_or_else(out_of_order)?;
        decode_noting(seed, nodes).map(Some)
    }
}
