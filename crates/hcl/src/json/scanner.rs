//! Text of JSON becomes tokens.

use crate::{
    error::Error,
    scanner::{Cursor, EOF, is_digit, is_letter},
    token::{Kind, Token},
};

pub(super) struct Scanner<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text, false) }
    }

    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.cursor.error.take()
    }

    pub(super) fn scan(&mut self) -> Token {
        let c = self.cursor.next_visible();
        let at = self.cursor.start_of_last();
        let kind = self.kind(c);
        let text = self.cursor.text[at.offset..self.cursor.here.offset].to_owned();
        let kind = match (kind, text.as_str()) {
            (Kind::Ident, "true" | "false") => Kind::Bool,
            (Kind::Ident, "null") => Kind::Null,
            (Kind::Ident, _) => {
                self.cursor.fail("illegal char");
                Kind::Illegal
            }
            (kind, _) => kind,
        };
        Token { kind, at, text, json: true }
    }

    fn kind(&mut self, c: char) -> Kind {
        match c {
            c if is_letter(c) => self.identifier(),
            '0'..='9' => self.number(c),
            EOF => Kind::Eof,
            '"' => self.string(),
            '.' => {
                let c = self.cursor.peek();
                if !c.is_ascii_digit() {
                    return Kind::Period;
                }
                let after = self.cursor.mantissa(c);
                self.cursor.exponent(after);
                Kind::Float
            }
            '[' => Kind::LBrack,
            ']' => Kind::RBrack,
            '{' => Kind::LBrace,
            '}' => Kind::RBrace,
            ',' => Kind::Comma,
            ':' => Kind::Colon,
            '-' if self.cursor.peek().is_ascii_digit() => {
                let c = self.cursor.next();
                self.number(c)
            }
            '-' => {
                self.cursor.fail("illegal char");
                Kind::Illegal
            }
            c => {
                self.cursor.fail(format!("illegal char: {c}"));
                Kind::Illegal
            }
        }
    }

    fn identifier(&mut self) -> Kind {
        let mut c = self.cursor.next();
        while is_letter(c) || is_digit(c) || c == '-' {
            c = self.cursor.next();
        }
        if c != EOF {
            self.cursor.unread();
        }
        Kind::Ident
    }

    fn number(&mut self, first: char) -> Kind {
        let start = self.cursor.here.offset;
        self.cursor.mantissa(first);
        let c = self.cursor.next();
        if self.cursor.tail_of_float(c) {
            return Kind::Float;
        }
        if c != EOF {
            self.cursor.unread();
        }
        if first == '0' && self.cursor.here.offset != start {
            self.cursor.fail("numbers cannot start with 0");
        }
        Kind::Number
    }

    fn string(&mut self) -> Kind {
        loop {
            match self.cursor.next() {
                '\n' | EOF => {
                    self.cursor.fail("literal not terminated");
                    break;
                }
                '"' => break,
                // As the library, which keeps "${" together.
                '$' if self.cursor.peek() == '{' => {
                    self.cursor.next();
                }
                '\\' => self.cursor.escape(),
                _ => {}
            }
        }
        Kind::String
    }
}
