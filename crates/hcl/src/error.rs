use std::fmt;

use crate::token::Position;

/// The most problems that one decoding remembers.
const MAX_ERRORS: usize = 100;

/// One thing wrong with a text, at a place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    position: Option<Position>,
    shown: Shown,
    path: String,
    /// Already noted in the decoding's own list.
    pub(crate) noted: bool,
}

/// How the text names the place; the Go library has three ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Not at all.
    Nowhere,
    /// `At 1:2: …`, or `At -: …` where the library does not know.
    At(Position),
    /// `1:2: …`, which is how JSON's scanner does it.
    Before(Position),
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            position: None,
            shown: Shown::Nowhere,
            path: String::new(),
            noted: false,
        }
    }

    /// An error whose text starts with "At line:column: ".
    pub(crate) fn at(position: Position, message: impl Into<String>) -> Self {
        let known = position.line.gt(&0).then_some(position);
        Self { position: known, shown: Shown::At(position), ..Self::new(message) }
    }

    /// An error whose text starts with "line:column: ".
    pub(crate) fn before(position: Position, message: impl Into<String>) -> Self {
        Self { shown: Shown::Before(position), ..Self::at(position, message) }
    }

    /// Adds the place and the key to an error that was made without them.
    pub(crate) fn located(mut self, position: Position, path: &str) -> Self {
        if self.position.is_none() && position.line > 0 {
            self.position = Some(position);
        }
        if self.path.is_empty() {
            path.clone_into(&mut self.path);
        }
        self
    }

    /// Where in the text, when known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The key, as `root.server.bind_port`; empty for errors of syntax.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shown {
            Shown::Nowhere => f.write_str(&self.message),
            Shown::At(position) => write!(f, "At {position}: {}", self.message),
            Shown::Before(position) => write!(f, "{position}: {}", self.message),
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

/// Everything wrong with a text, in the order of its discovery; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    pub(crate) fn one(error: Error) -> Self {
        Self(vec![error])
    }

    pub(crate) fn all(mut errors: Vec<Error>) -> Self {
        errors.truncate(MAX_ERRORS);
        Self(errors)
    }

    /// The errors one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
