//! The tree becomes serde types by the rules of the Go library's decoder.
//!
//! That decoder fills a field once per matching item, each time on top of what
//! is there: scalars are replaced, lists grow, structs and maps merge. Here a
//! field is decoded once, from all of its matching nodes in that same order.

mod access;
mod node;

use std::cell::RefCell;

use serde::{
    Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor, value::SeqDeserializer},
    forward_to_deserialize_any,
};

use self::{
    access::{Elements, Fields, LocatedPair, MapItems},
    node::{ItemRef, Node},
};
use crate::{
    ast::Value,
    block::{CAPTURE, Captured, Decoded, UnknownKey, hand_over},
    error::{Error, Errors},
    located::LOCATED,
    number::{parse_float, parse_int},
    token::{Kind, Position},
};

pub(crate) fn decode<T: DeserializeOwned>(root: &Captured) -> Result<Decoded<T>, Errors> {
    let context = Context::default();
    let node = match root {
        Captured::Body(body) => Node::Items(ItemRef::all(body)),
        Captured::Value(value) => Node::Value(value),
    };
    let root = Nodes {
        context: &context,
        nodes: vec![node],
        path: "root".to_owned(),
        position: Position::default(),
        is_element: false,
    };
    let result = T::deserialize(root);
    let mut errors = context.errors.into_inner();
    match result {
        Ok(value) if errors.is_empty() => {
            Ok(Decoded { value, unknown: context.unknown.into_inner() })
        }
        Ok(_) => Err(Errors::all(errors)),
        Err(error) if error.noted || !errors.is_empty() => {
            if !error.noted {
                errors.push(error);
            }
            Err(Errors::all(errors))
        }
        Err(error) => Err(Errors::one(error)),
    }
}

/// What a decoding finds besides the value.
#[derive(Default)]
struct Context {
    errors: RefCell<Vec<Error>>,
    unknown: RefCell<Vec<UnknownKey>>,
}

impl Context {
    /// Notes an error once, with its place.
    fn note(&self, error: Error, position: Position, path: &str) -> Error {
        if error.noted {
            return error;
        }
        let mut error = error.located(position, path);
        self.errors.borrow_mut().push(error.clone());
        error.noted = true;
        error
    }
}

/// All that one field, element or map entry is decoded from, in order.
struct Nodes<'a> {
    context: &'a Context,
    nodes: Vec<Node<'a>>,
    path: String,
    /// Where the key stands.
    position: Position,
    is_element: bool,
}

impl<'a> Nodes<'a> {
    fn child(&self, path: String, position: Position, nodes: Vec<Node<'a>>) -> Self {
        Self { context: self.context, nodes, path, position, is_element: false }
    }

    fn misfit(&self, node: &Node<'_>, what: &str) -> Error {
        let message = format!("{}: {what}", self.path);
        Error::at(node.at(), message).located(self.position, &self.path)
    }

    /// The last literal, after a look at those that it replaces.
    fn last<T>(
        &self,
        what: &str,
        convert: impl Fn(&crate::ast::Literal) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut last = None;
        for node in &self.nodes {
            let converted = match node {
                Node::Value(Value::Literal(literal)) => convert(literal),
                _ => None,
            };
            match converted {
                Some(value) => last = Some(value?),
                None => {
                    return Err(
                        self.misfit(node, &format!("unknown type {what}{}", node.go_type()))
                    );
                }
            }
        }
        last.ok_or_else(|| Error::custom("nothing to decode"))
    }

    fn boolean(&self) -> Result<bool, Error> {
        self.last("", |literal| match literal.token.kind {
            Kind::Bool => Some(Ok(literal.token.text == "true")),
            _ => None,
        })
    }

    fn integer(&self) -> Result<i64, Error> {
        self.last("", |literal| match literal.token.kind {
            Kind::Number => Some(parse_int(&literal.token.text)),
            Kind::String => Some(self.string_of(literal).and_then(|text| parse_int(&text))),
            _ => None,
        })
    }

    fn float(&self) -> Result<f64, Error> {
        self.last("", |literal| match literal.token.kind {
            Kind::Number | Kind::Float => Some(parse_float(&literal.token.text)),
            _ => None,
        })
    }

    fn string(&self) -> Result<String, Error> {
        self.last("for string ", |literal| match literal.token.kind {
            Kind::Number => Some(Ok(literal.token.text.clone())),
            Kind::String | Kind::Heredoc => Some(self.string_of(literal)),
            _ => None,
        })
    }

    fn string_of(&self, literal: &crate::ast::Literal) -> Result<String, Error> {
        literal
            .string()
            .map_err(|_| Error::at(literal.token.at, format!("{}: not a valid string", self.path)))
    }

    /// The items of each node, for a struct.
    fn bodies(&self) -> Result<Vec<Vec<ItemRef<'a>>>, Error> {
        let bodies = self.nodes.iter().map(|node| {
            node.struct_items(self.is_element).ok_or_else(|| {
                let inner = node.unwrapped_go_type();
                self.misfit(node, &format!("not an object type for struct ({inner})"))
            })
        });
        bodies.collect()
    }

    /// The items of each node, for a map.
    fn map_bodies(&self) -> Result<Vec<Vec<ItemRef<'a>>>, Error> {
        let bodies = self.nodes.iter().map(|node| {
            node.map_items().ok_or_else(|| {
                self.misfit(node, &format!("not an object type for map ({})", node.go_type()))
            })
        });
        bodies.collect()
    }

    fn elements(&self) -> Result<Vec<Node<'a>>, Error> {
        let mut elements = Vec::new();
        for node in &self.nodes {
            match node.elements() {
                Some(inner) => elements.extend(inner),
                None => {
                    let message = format!("unknown slice type: {}", node.go_type());
                    return Err(Error::at(node.at(), message).located(self.position, &self.path));
                }
            }
        }
        Ok(elements)
    }

    fn captured(&self) -> Result<Captured, Error> {
        // The library keeps the first of several.
        let node = self.nodes.first().ok_or_else(|| Error::custom("nothing to decode"))?;
        Ok(node.capture())
    }
}

macro_rules! deserialize_scalars {
    ($reader:ident, $visit:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.$reader()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Nodes<'_> {
    type Error = Error;

    deserialize_scalars!(boolean, visit_bool: deserialize_bool);
    deserialize_scalars!(integer, visit_i64: deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    deserialize_scalars!(float, visit_f64: deserialize_f32 deserialize_f64);
    deserialize_scalars!(string, visit_string: deserialize_char deserialize_str
        deserialize_string deserialize_identifier);

    forward_to_deserialize_any! { i128 u128 bytes byte_buf }

    /// Without a wish from the type: the natural one for the text, objects as
    /// maps.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.nodes.last() {
            Some(Node::Value(Value::Literal(literal))) => match literal.token.kind {
                Kind::Bool => self.deserialize_bool(visitor),
                Kind::Number => self.deserialize_i64(visitor),
                Kind::Float => self.deserialize_f64(visitor),
                _ => self.deserialize_string(visitor),
            },
            Some(Node::Value(Value::List(_))) => self.deserialize_seq(visitor),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_struct(name, &[], visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == CAPTURE {
            hand_over(self.captured()?);
            return visitor.visit_unit();
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let elements = self.elements()?;
        visitor.visit_seq(Elements::new(&self, elements))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bodies = self.map_bodies()?;
        visitor.visit_map(MapItems::new(&self, &bodies)?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == LOCATED {
            return visitor.visit_seq(LocatedPair::new(self));
        }
        let bodies = self.bodies()?;
        visitor.visit_map(Fields::new(&self, &bodies, fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.string()?.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// A position as `Located` takes it.
fn position_numbers<'de>(
    position: Position,
) -> SeqDeserializer<std::array::IntoIter<usize, 3>, Error>
where
    usize: IntoDeserializer<'de, Error>,
{
    SeqDeserializer::new([position.offset, position.line, position.column].into_iter())
}

#[cfg(test)]
mod tests;
