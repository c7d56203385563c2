use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// What an attestor found out about a node or a workload, such as `unix:uid:1000`.
///
/// The kind names the attestor and has no colon in it, the value is the attestor's own affair.
/// Cheap to clone; ordered by kind, then value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Selector {
    /// The name of the attestor (`type` in SPIRE's API).
    pub kind: Arc<str>,
    /// What it found out.
    pub value: Arc<str>,
}

/// Why a text is not a selector. The texts are SPIRE's.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The text has no colon; holds its beginning, escaped.
    #[error("selector \"{0}\" must be formatted as type:value")]
    NoColon(String),
    /// Nothing stands before the colon.
    #[error("missing selector type")]
    MissingKind,
    /// The kind, given by itself, has a colon in it.
    #[error("selector type contains ':'")]
    KindWithColon,
    /// Nothing stands after the colon.
    #[error("missing selector value")]
    MissingValue,
}

impl Selector {
    /// Puts a selector together from parts that are known to be right, as an attestor does.
    #[must_use]
    pub fn new(kind: &str, value: &str) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }

    /// Puts a selector together from parts that a peer sent.
    ///
    /// # Errors
    /// When a part is empty or the kind has a colon in it.
    pub fn checked(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingKind);
        }
        if kind.contains(':') {
            return Err(SelectorError::KindWithColon);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        Ok(Self::new(kind, value))
    }

    /// Parses `type:value`; the value may hold further colons.
    ///
    /// # Errors
    /// When there is no colon or one side of the first one is empty.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let Some((kind, value)) = text.split_once(':') else {
            return Err(SelectorError::NoColon(
                text.chars().take(64).flat_map(char::escape_debug).collect(),
            ));
        };
        Self::checked(kind, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_divides() {
        let selector = Selector::parse("unix:uid:1000").unwrap();
        assert_eq!((&*selector.kind, &*selector.value), ("unix", "uid:1000"));
        assert_eq!(selector.to_string(), "unix:uid:1000");
        assert_eq!("unix:uid:1000".parse(), Ok(selector));
    }

    #[test]
    fn halves_are_refused_in_spires_words() {
        let error = |text| Selector::parse(text).unwrap_err().to_string();
        assert_eq!(error("unix"), "selector \"unix\" must be formatted as type:value");
        assert_eq!(error(":uid"), "missing selector type");
        assert_eq!(error("unix:"), "missing selector value");
        assert_eq!(Selector::checked("a:b", "c"), Err(SelectorError::KindWithColon));
        assert!(error(&"\n".repeat(9999)).len() < 200);
    }

    #[test]
    fn order_is_by_kind_then_value() {
        let mut list = ["b:a", "a:b", "a:a", "a:B"].map(|it| Selector::parse(it).unwrap());
        list.sort();
        assert_eq!(list.map(|it| it.to_string()), ["a:B", "a:a", "a:b", "b:a"]);
    }
}
