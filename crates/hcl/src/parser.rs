//! Tokens of HCL become the tree.

use std::sync::Arc;

use crate::{
    MAX_DEPTH,
    ast::{Body, Item, Key, List, Literal, Object, Value},
    error::Error,
    scanner::Scanner,
    token::{Kind, Position, Token},
};

/// Reads HCL.
pub(crate) fn parse(text: &str) -> Result<Body, Error> {
    let text = text.replace("\r\n", "\n");
    let mut parser = Parser {
        scanner: Scanner::new(&text),
        token: Token {
            kind: Kind::Illegal,
            at: Position::default(),
            text: String::new(),
            json: false,
        },
        buffered: false,
        lead_comment: None,
        line_comment: None,
        depth: 0,
    };
    let body = parser.body(false);
    // Whatever the scanner saw explains more than what the parser made of it.
    if let Some(error) = parser.scanner.take_error() {
        return Err(error);
    }
    match body {
        Ok(body) => Ok(body),
        Err(Stop::End) => Ok(Body::default()),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Why an item could not be read.
enum Stop {
    /// The text is over; not always an error.
    End,
    Error(Error),
}

impl Stop {
    fn at(at: Position, message: impl Into<String>) -> Self {
        Self::Error(Error::at(at, message))
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    token: Token,
    /// `token` was put back and is to be read again.
    buffered: bool,
    lead_comment: Option<Vec<String>>,
    line_comment: Option<Vec<String>>,
    depth: usize,
}

impl Parser<'_> {
    /// Items up to the closing brace, or to the end of the text.
    fn body(&mut self, in_object: bool) -> Result<Body, Stop> {
        let mut body = Body::default();
        loop {
            if in_object {
                self.scan();
                self.unscan();
                if self.token.kind == Kind::RBrace {
                    break;
                }
            }
            match self.item() {
                Ok(item) => body.items.push(item),
                Err(Stop::End) => break,
                Err(stop) => return Err(stop),
            }
            self.scan();
            if self.token.kind != Kind::Comma {
                self.unscan();
            }
        }
        Ok(body)
    }

    fn item(&mut self) -> Result<Item, Stop> {
        let keys = self.keys()?;
        let lead_comment = self.lead_comment.take().unwrap_or_default();
        let (assigned, value) = match self.token.kind {
            Kind::Assign => (true, self.value()?),
            Kind::LBrace => (false, Value::Object(self.object()?)),
            _ => {
                let names: Vec<&str> = keys.iter().map(|key| key.token.text.as_str()).collect();
                let names = shorten(&names.join(" "));
                return Err(Stop::at(
                    self.token.at,
                    format!("key '{names}' expected start of object ('{{') or assignment ('=')"),
                ));
            }
        };

        // key = # comment
        //   value
        let mut line_comment = self.line_comment.take();
        self.scan();
        if value.line() == keys[0].token.line() && self.line_comment.is_some() {
            line_comment = self.line_comment.take();
        }
        self.unscan();
        let line_comment = line_comment.unwrap_or_default();
        Ok(Item { keys, assigned, value, lead_comment, line_comment })
    }

    /// The keys up to `=`, `{` or whatever stands in their place.
    fn keys(&mut self) -> Result<Vec<Arc<Key>>, Stop> {
        let mut keys = Vec::new();
        loop {
            self.scan();
            let at = self.token.at;
            match self.token.kind {
                Kind::Eof if keys.is_empty() => return Err(Stop::End),
                Kind::Eof => return Ok(keys),
                Kind::Assign if keys.len() > 1 => {
                    return Err(Stop::at(at, "nested object expected: LBRACE got: ASSIGN"));
                }
                Kind::Assign if keys.is_empty() => {
                    return Err(Stop::at(at, "no object keys found!"));
                }
                Kind::LBrace if keys.is_empty() => {
                    return Err(Stop::at(at, "expected: IDENT | STRING got: LBRACE"));
                }
                Kind::Assign | Kind::LBrace => return Ok(keys),
                Kind::Ident | Kind::String => match Key::new(self.token.clone()) {
                    Ok(key) => keys.push(Arc::new(key)),
                    // The scanner has said so, and may have more to say.
                    Err(_) if self.scanner.has_error() => {
                        let token = Token { kind: Kind::Ident, ..self.token.clone() };
                        keys.extend(Key::new(token).ok().map(Arc::new));
                    }
                    Err(_) => return Err(Stop::at(at, "key is not a valid string")),
                },
                // A key without a value: the caller says so.
                Kind::RBrace if !keys.is_empty() => {
                    self.token.kind = Kind::Eof;
                    return Ok(keys);
                }
                Kind::Illegal => return Err(Stop::at(at, "illegal character")),
                kind => {
                    return Err(Stop::at(
                        at,
                        format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {kind}"),
                    ));
                }
            }
        }
    }

    fn value(&mut self) -> Result<Value, Stop> {
        self.scan();
        match self.token.kind {
            Kind::Number | Kind::Float | Kind::Bool | Kind::String | Kind::Heredoc => {
                Ok(Value::Literal(Literal::new(self.token.clone())))
            }
            Kind::LBrace => self.object().map(Value::Object),
            Kind::LBrack => self.list().map(Value::List),
            Kind::Eof => Err(Stop::End),
            _ => Err(Stop::at(self.token.at, format!("Unknown token: {}", self.token))),
        }
    }

    /// An object whose opening brace was read.
    fn object(&mut self) -> Result<Object, Stop> {
        let at = self.token.at;
        self.enter()?;
        let body = self.body(true)?;
        self.scan();
        if self.token.kind != Kind::RBrace {
            return Err(Stop::at(
                self.token.at,
                format!("object expected closing RBRACE got: {}", self.token.kind),
            ));
        }
        self.depth -= 1;
        Ok(Object { at, json: false, body })
    }

    /// A list whose opening bracket was read.
    fn list(&mut self) -> Result<List, Stop> {
        let mut list = List { at: self.token.at, json: false, values: Vec::new() };
        self.enter()?;
        let mut need_comma = false;
        loop {
            self.scan();
            let at = self.token.at;
            let kind = self.token.kind;
            if need_comma && !matches!(kind, Kind::Comma | Kind::RBrack) {
                return Err(Stop::at(
                    at,
                    format!("error parsing list, expected comma or list end, got: {kind}"),
                ));
            }
            match kind {
                Kind::Bool | Kind::Number | Kind::Float | Kind::String | Kind::Heredoc => {
                    let mut literal = Literal::new(self.token.clone());
                    literal.lead_comment = self.lead_comment.take().unwrap_or_default();
                    list.values.push(Value::Literal(literal));
                    need_comma = true;
                }
                Kind::Comma => {
                    self.scan();
                    if self.line_comment.is_some()
                        && let Some(Value::Literal(literal)) = list.values.last_mut()
                    {
                        literal.line_comment = self.line_comment.take().unwrap_or_default();
                    }
                    self.unscan();
                    need_comma = false;
                }
                Kind::LBrace => {
                    let object = self.object().map_err(|stop| within(at, "object", stop))?;
                    list.values.push(Value::Object(object));
                    need_comma = true;
                }
                Kind::LBrack => {
                    let inner = self.list().map_err(|stop| within(at, "list", stop))?;
                    list.values.push(Value::List(inner));
                }
                Kind::RBrack => {
                    self.depth -= 1;
                    return Ok(list);
                }
                kind => {
                    return Err(Stop::at(
                        at,
                        format!("unexpected token while parsing list: {kind}"),
                    ));
                }
            }
        }
    }

    fn enter(&mut self) -> Result<(), Stop> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(Stop::at(self.token.at, format!("nested deeper than {MAX_DEPTH} levels"))),
            false => Ok(()),
        }
    }

    /// Reads the next token that is no comment; comments are remembered as
    /// those above (`lead`) or behind (`line`) their neighbour.
    fn scan(&mut self) {
        if self.buffered {
            self.buffered = false;
            return;
        }
        let before = self.token.line();
        self.token = self.scanner.scan();
        if self.token.kind != Kind::Comment {
            return;
        }

        let mut group = None;
        if self.token.line() == before {
            let (comments, end) = self.comments(0);
            if self.token.line() != end {
                self.line_comment = Some(comments.clone());
            }
            group = Some(comments);
        }
        let mut end = None;
        while self.token.kind == Kind::Comment {
            let (comments, last) = self.comments(1);
            group = Some(comments);
            end = Some(last);
        }
        // Without a group below the first one, the library's end is -1.
        let next_line = end.map_or(0, |end| end + 1);
        if next_line == self.token.line() && !matches!(self.token.kind, Kind::RBrace | Kind::RBrack)
        {
            self.lead_comment = group;
        }
    }

    fn unscan(&mut self) {
        self.buffered = true;
    }

    /// A group of comments at most `gap` lines apart, and its last line.
    fn comments(&mut self, gap: usize) -> (Vec<String>, usize) {
        let mut group = Vec::new();
        let mut end = self.token.line();
        while self.token.kind == Kind::Comment && self.token.line() <= end + gap {
            end = self.token.line();
            if self.token.text.starts_with("/*") {
                end += self.token.text.matches('\n').count();
            }
            let next = self.scanner.scan();
            group.push(std::mem::replace(&mut self.token, next).text);
        }
        (group, end)
    }
}

fn within(at: Position, what: &str, stop: Stop) -> Stop {
    match stop {
        Stop::End => Stop::End,
        Stop::Error(error) => {
            Stop::at(at, format!("error while trying to parse {what} within list: {error}"))
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
