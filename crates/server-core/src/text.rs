//! What may be quoted back to a peer.

use std::fmt;

/// The most characters of a peer's input that an error repeats.
const SHOWN: usize = 100;

/// A peer's text as an error shows it: quoted, escaped, and cut when long.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Takes what will be shown of `text`; the rest is not kept.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
