//! The tree that both forms of text become.

use std::sync::Arc;

use crate::{
    token::{Kind, Position, Token},
    unquote::{self, BadQuoting},
};

/// Key-value pairs in the order written; repeated keys stay apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Body {
    pub(crate) items: Vec<Item>,
}

/// `key = value`, `key { … }` or `key "label" … { … }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// At least one; labels follow the key. Shared, because JSON's flattening
    /// repeats them.
    pub(crate) keys: Vec<Arc<Key>>,
    /// Whether an `=` (or JSON's `:`) stands between key and value.
    pub(crate) assigned: bool,
    pub(crate) value: Value,
    /// Comments right above, one text per comment.
    pub(crate) lead_comment: Vec<String>,
    /// Comments behind the value on its line.
    pub(crate) line_comment: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) token: Token,
    /// The key without quotes.
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Literal(Literal),
    List(List),
    Object(Object),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    pub(crate) token: Token,
    pub(crate) lead_comment: Vec<String>,
    pub(crate) line_comment: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    pub(crate) at: Position,
    pub(crate) json: bool,
    pub(crate) values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) at: Position,
    pub(crate) json: bool,
    pub(crate) body: Body,
}

impl Key {
    pub(crate) fn new(token: Token) -> Result<Self, BadQuoting> {
        let name = match token.kind {
            Kind::String => unquote::unquote(&token.text, !token.json)?,
            _ => token.text.clone(),
        };
        Ok(Self { token, name })
    }
}

impl Literal {
    pub(crate) fn new(token: Token) -> Self {
        Self { token, lead_comment: Vec::new(), line_comment: Vec::new() }
    }

    /// The text of a string or heredoc, without its quoting.
    pub(crate) fn string(&self) -> Result<String, BadQuoting> {
        match self.token.kind {
            // JSON's null.
            Kind::String if self.token.text.is_empty() => Ok(String::new()),
            Kind::String => unquote::unquote(&self.token.text, !self.token.json),
            Kind::Heredoc => Ok(unquote::heredoc(&self.token.text)),
            _ => Ok(self.token.text.clone()),
        }
    }
}

impl Value {
    /// Where the value starts.
    pub(crate) fn at(&self) -> Position {
        match self {
            Self::Literal(literal) => literal.token.at,
            Self::List(list) => list.at,
            Self::Object(object) => object.at,
        }
    }

    /// The line that layout goes by (see [`Token::line`]).
    pub(crate) fn line(&self) -> usize {
        match self {
            Self::Literal(literal) => literal.token.line(),
            Self::List(List { json: false, at, .. })
            | Self::Object(Object { json: false, at, .. }) => at.line,
            Self::List(_) | Self::Object(_) => 0,
        }
    }

    /// The name that the Go library gives to this kind of value in errors.
    pub(crate) fn go_type(&self) -> &'static str {
        match self {
            Self::Literal(_) => "*ast.LiteralType",
            Self::List(_) => "*ast.ListType",
            Self::Object(_) => "*ast.ObjectType",
        }
    }
}

/// Go's `strings.EqualFold` over what can match an ASCII key.
pub(crate) fn equal_fold(a: &str, b: &str) -> bool {
    a == b
        || a.eq_ignore_ascii_case(b)
        || (!a.is_ascii() && a.chars().map(fold).eq(b.chars().map(fold)))
}

/// One representative of all characters that are equal but for case.
pub(crate) fn fold(c: char) -> char {
    match c {
        '\u{017f}' => 's',
        '\u{212a}' => 'k',
        c => {
            let mut lower = c.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(one), None) => one,
                _ => c,
            }
        }
    }
}
