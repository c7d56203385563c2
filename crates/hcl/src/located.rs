//! A value together with its place.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

use crate::token::Position;

/// A key's value, when it is there and fits, and where it stands.
///
/// Decoding goes on when the value does not fit: the error is reported with all
/// others at the end, so that one run finds every mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value; `None` when the key is absent.
    pub value: Option<T>,
    /// Where the key stands, when it is there.
    pub position: Option<Position>,
}

impl<T> Located<T> {
    /// A value that comes from elsewhere than the text.
    pub fn from_elsewhere(value: T) -> Self {
        Self { value: Some(value), position: None }
    }

    /// The value, when there is one.
    pub fn as_ref(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Whether the key is there.
    pub fn is_present(&self) -> bool {
        self.position.is_some() || self.value.is_some()
    }

    /// The line of the key, from one.
    pub fn line(&self) -> Option<usize> {
        self.position.map(|position| position.line).filter(|line| *line > 0)
    }
}

impl<T> Default for Located<T> {
    fn default() -> Self {
        Self { value: None, position: None }
    }
}

/// The names under which a `Located` asks the decoder for a place and a value.
pub(crate) const LOCATED: &str = "$steeple_hcl::Located";
pub(crate) const LOCATED_FIELDS: &[&str] = &["position", "value"];

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(LOCATED, LOCATED_FIELDS, Pair(PhantomData))
    }
}

struct Pair<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Pair<T> {
    type Value = Located<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of HCL")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut pair: A) -> Result<Located<T>, A::Error> {
        let missing = || de::Error::custom("a located value can be read from HCL only");
        let [offset, line, column] = pair.next_element()?.ok_or_else(missing)?;
        let position = Some(Position { offset, line, column });
        // The decoder has noted the error already.
        let value = pair.next_element::<T>().ok().flatten();
        Ok(Located { value, position })
    }
}
