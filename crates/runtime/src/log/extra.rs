//! Fields whose names are only known when the line is written.

use std::fmt::{self, Display, Write as _};

/// Between two fields, and between the parts of one. No name or value has them.
pub(super) const END: char = '\u{1e}';
pub(super) const PART: char = '\u{1f}';

/// The name under which an event carries [`Extra`] fields: `log.extra = ?extra`.
pub(super) const FIELD: &str = "log.extra";

/// More fields for a line, of any names: `tracing::info!(log.extra = ?extra, "…")`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra(String);

impl Extra {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, value: impl Display) {
        self.push(name, 't', value);
    }

    /// Adds a number or a boolean, which JSON prints without quotes.
    pub fn bare(&mut self, name: &str, value: impl Display) {
        self.push(name, 'b', value);
    }

    /// Adds all fields of another, which win over those of the same name.
    pub fn extend(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    fn push(&mut self, name: &str, kind: char, value: impl Display) {
        // Writing to a string fails only when the value's own printing does.
        let _ = Clean { out: &mut self.0, left: MAX }.write_str(name);
        self.0.extend([PART, kind]);
        let _ = write!(Clean { out: &mut self.0, left: MAX }, "{value}");
        self.0.push(END);
    }
}

/// Only for the log, which takes it apart again.
impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes what it is given as far as [`MAX`], and without the separators.
struct Clean<'a> {
    out: &'a mut String,
    left: usize,
}

/// The most bytes of a name, and of a value: callers have a say in them.
const MAX: usize = 16 * 1024;

impl fmt::Write for Clean<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let clean = |c| if c == END || c == PART { char::REPLACEMENT_CHARACTER } else { c };
        let text = &text[..text.floor_char_boundary(self.left)];
        self.left -= text.len();
        self.out.extend(text.chars().map(clean));
        Ok(())
    }
}
