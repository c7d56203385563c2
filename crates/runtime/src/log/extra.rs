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
        let mut writer = Clean(&mut self.0);
        // Writing to a string fails only when the value's own printing does.
        let _ = writer.write_str(name);
        writer.0.extend([PART, kind]);
        let _ = write!(writer, "{value}");
        self.0.push(END);
    }
}

/// Only for the log, which takes it apart again.
impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Clean<'a>(&'a mut String);

impl fmt::Write for Clean<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let clean = |c| if c == END || c == PART { char::REPLACEMENT_CHARACTER } else { c };
        self.0.extend(text.chars().map(clean));
        Ok(())
    }
}
