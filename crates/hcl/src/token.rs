use std::fmt;

/// A place in a text. All zero means "unknown"; lines and columns count from
/// one, columns in characters, offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Bytes from the start.
    pub offset: usize,
    /// Line, from one.
    pub line: usize,
    /// Character in the line, from one.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str("-"),
            line => write!(f, "{line}:{}", self.column),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Illegal,
    Eof,
    Comment,
    Ident,
    Number,
    Float,
    Bool,
    String,
    Heredoc,
    LBrack,
    LBrace,
    Comma,
    Period,
    RBrack,
    RBrace,
    Assign,
    Add,
    Sub,
    /// JSON only.
    Null,
    /// JSON only.
    Colon,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Illegal => "ILLEGAL",
            Self::Eof => "EOF",
            Self::Comment => "COMMENT",
            Self::Ident => "IDENT",
            Self::Number => "NUMBER",
            Self::Float => "FLOAT",
            Self::Bool => "BOOL",
            Self::String => "STRING",
            Self::Heredoc => "HEREDOC",
            Self::LBrack => "LBRACK",
            Self::LBrace => "LBRACE",
            Self::Comma => "COMMA",
            Self::Period => "PERIOD",
            Self::RBrack => "RBRACK",
            Self::RBrace => "RBRACE",
            Self::Assign => "ASSIGN",
            Self::Add => "ADD",
            Self::Sub => "SUB",
            Self::Null => "NULL",
            Self::Colon => "COLON",
        })
    }
}

/// A piece of text as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Where it really stands.
    pub(crate) at: Position,
    pub(crate) text: String,
    /// Read from JSON. The Go library forgets where JSON stood, which its
    /// printer lets one see; [`Token::line`] forgets it too.
    pub(crate) json: bool,
}

impl Token {
    /// The line that layout goes by: none in JSON.
    pub(crate) fn line(&self) -> usize {
        if self.json { 0 } else { self.at.line }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(64).flat_map(char::escape_debug).collect();
        write!(f, "{} {} {shown}", self.at, self.kind)
    }
}
