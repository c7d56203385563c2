//! The JSON form: like HCL's tree, after nested objects were flattened into
//! labels. The library's reader is looser than JSON, and so is this one.

mod flatten;
mod scanner;

use std::sync::Arc;

use crate::{
    MAX_DEPTH,
    ast::{Body, Item, Key, List, Literal, Object, Value},
    error::Error,
    token::{Kind, Token},
};

/// Reads JSON whose first visible character is `{`; text after the closing
/// brace is not looked at.
pub(crate) fn parse(text: &str) -> Result<Body, Error> {
    let mut parser = Parser { scanner: scanner::Scanner::new(text), token: None, depth: 0 };
    parser.scan();
    let object = parser.object();
    if let Some(error) = parser.scanner.take_error() {
        return Err(error);
    }
    match object {
        Ok(object) => Ok(flatten::flatten(object.body)),
        Err(Stop::End) => Err(Error::new("EOF token found")),
        Err(Stop::Error(error)) => Err(error),
    }
}

enum Stop {
    End,
    Error(Error),
}

impl Stop {
    fn at(token: &Token, message: impl Into<String>) -> Self {
        Self::Error(Error::new(message).located(token.at, ""))
    }
}

struct Parser<'a> {
    scanner: scanner::Scanner<'a>,
    token: Option<Token>,
    depth: usize,
}

impl Parser<'_> {
    fn scan(&mut self) -> Token {
        let token = self.scanner.scan();
        self.token = Some(token.clone());
        token
    }

    fn at_closing_brace(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.kind == Kind::RBrace)
    }

    /// An object whose opening brace was read.
    fn object(&mut self) -> Result<Object, Stop> {
        let at = self.token.as_ref().map(|token| token.at).unwrap_or_default();
        self.enter(at)?;
        let mut body = Body::default();
        loop {
            match self.item() {
                Ok(item) => body.items.push(item),
                // An object that just stops at the end of the text counts.
                Err(Stop::End) => break,
                // So does a closing brace where a key should be.
                Err(Stop::Error(_)) if self.at_closing_brace() => break,
                Err(stop) => return Err(stop),
            }
            if self.scan().kind != Kind::Comma {
                break;
            }
        }
        self.depth -= 1;
        Ok(Object { at, json: true, body })
    }

    fn item(&mut self) -> Result<Item, Stop> {
        let mut keys = Vec::new();
        loop {
            let token = self.scan();
            match token.kind {
                Kind::Eof => return Err(Stop::End),
                Kind::String => match Key::new(token.clone()) {
                    Ok(key) => keys.push(Arc::new(key)),
                    Err(_) => return Err(Stop::at(&token, "key is not a valid string")),
                },
                Kind::Colon if !keys.is_empty() => break,
                Kind::Illegal => return Err(Stop::at(&token, "illegal")),
                kind => return Err(Stop::at(&token, format!("expected: STRING got: {kind}"))),
            }
        }
        let value = self.value()?;
        let (lead_comment, line_comment) = (Vec::new(), Vec::new());
        Ok(Item { keys, assigned: true, value, lead_comment, line_comment })
    }

    fn value(&mut self) -> Result<Value, Stop> {
        let token = self.scan();
        match token.kind {
            Kind::Number | Kind::Float | Kind::Bool | Kind::Null | Kind::String => {
                Ok(Value::Literal(literal(token)))
            }
            Kind::LBrace => self.object().map(Value::Object),
            Kind::LBrack => self.list().map(Value::List),
            Kind::Eof => Err(Stop::End),
            _ => {
                let message = format!("Expected object value, got unknown token: {token}");
                Err(Stop::at(&token, message))
            }
        }
    }

    /// A list whose opening bracket was read. Commas are optional; booleans and
    /// the brackets of lists within are passed over, as the library does.
    fn list(&mut self) -> Result<List, Stop> {
        let at = self.token.as_ref().map(|token| token.at).unwrap_or_default();
        let mut values = Vec::new();
        loop {
            let token = self.scan();
            match token.kind {
                Kind::Number | Kind::Float | Kind::String => {
                    values.push(Value::Literal(literal(token)));
                }
                Kind::Comma | Kind::Bool | Kind::LBrack => {}
                Kind::LBrace => values.push(Value::Object(self.object()?)),
                Kind::RBrack => return Ok(List { at, json: true, values }),
                kind => {
                    let message = format!("unexpected token while parsing list: {kind}");
                    return Err(Stop::at(&token, message));
                }
            }
        }
    }

    fn enter(&mut self, at: crate::Position) -> Result<(), Stop> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => {
                Err(Stop::Error(Error::at(at, format!("nested deeper than {MAX_DEPTH} levels"))))
            }
            false => Ok(()),
        }
    }
}

/// `null` counts as a string without text.
fn literal(token: Token) -> Literal {
    match token.kind {
        Kind::Null => Literal::new(Token { kind: Kind::String, text: String::new(), ..token }),
        _ => Literal::new(token),
    }
}
