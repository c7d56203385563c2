//! Text of HCL becomes tokens.

use crate::{
    error::Error,
    token::{Kind, Position, Token},
};

/// What reading yields past the end of the text.
pub(crate) const EOF: char = '\0';

/// Walks over a text character by character, keeping count of lines.
pub(crate) struct Cursor<'a> {
    pub(crate) text: &'a str,
    pub(crate) here: Position,
    previous: Position,
    /// Bytes of the last character read; zero at the end.
    last_length: usize,
    last_line_length: usize,
    /// HCL refuses some characters that its JSON form does not look at.
    strict: bool,
    /// The last thing wrong; reading goes on after it.
    pub(crate) error: Option<Error>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str, strict: bool) -> Self {
        let start = Position { offset: 0, line: 1, column: 0 };
        Self {
            text,
            here: start,
            previous: start,
            last_length: 0,
            last_line_length: 0,
            strict,
            error: None,
        }
    }

    pub(crate) fn next(&mut self) -> char {
        let Some(c) = self.text[self.here.offset..].chars().next() else {
            self.here.column += 1;
            self.last_length = 0;
            return EOF;
        };
        self.previous = self.here;
        self.last_length = c.len_utf8();
        self.here.offset += self.last_length;
        self.here.column += 1;
        if c == '\n' {
            self.here.line += 1;
            self.last_line_length = self.here.column;
            self.here.column = 0;
        }
        match c {
            '\0' if self.strict => self.fail("unexpected null character (0x00)"),
            '\u{e123}' if self.strict => {
                self.fail("unicode code point U+E123 reserved for internal use");
                return char::REPLACEMENT_CHARACTER;
            }
            _ => {}
        }
        c
    }

    /// Takes the last character back; once, and not at the end.
    pub(crate) fn unread(&mut self) {
        self.here = self.previous;
    }

    pub(crate) fn peek(&self) -> char {
        self.text[self.here.offset..].chars().next().unwrap_or(EOF)
    }

    /// Where the character read last stands.
    pub(crate) fn start_of_last(&self) -> Position {
        // A character taken back may be longer than what is left before it.
        let offset = self.here.offset.saturating_sub(self.last_length);
        match self.here.column {
            0 if self.last_line_length > 0 => {
                let line = self.here.line.saturating_sub(1);
                Position { offset, line, column: self.last_line_length }
            }
            0 => Position { offset, line: 1, column: 1 },
            column => Position { offset, line: self.here.line, column },
        }
    }

    pub(crate) fn fail(&mut self, message: impl Into<String>) {
        let at = self.start_of_last();
        self.error = Some(match self.strict {
            true => Error::at(at, message),
            false => Error::before(at, message),
        });
    }

    /// Skips white space and returns what comes after it.
    pub(crate) fn next_visible(&mut self) -> char {
        loop {
            match self.next() {
                ' ' | '\t' | '\n' | '\r' => {}
                c => return c,
            }
        }
    }

    /// Reads decimal digits, `c` being the first, and returns what follows.
    pub(crate) fn mantissa(&mut self, mut c: char) -> char {
        let mut scanned = false;
        while c.is_ascii_digit() {
            c = self.next();
            scanned = true;
        }
        if scanned && c != EOF {
            self.unread();
        }
        c
    }

    pub(crate) fn exponent(&mut self, mut c: char) {
        if matches!(c, 'e' | 'E') {
            c = self.next();
            if matches!(c, '-' | '+') {
                c = self.next();
            }
            self.mantissa(c);
        }
    }

    /// Reads what follows a decimal point or a run of digits: the fraction and
    /// the exponent. Returns whether there was any.
    pub(crate) fn tail_of_float(&mut self, c: char) -> bool {
        match c {
            'e' | 'E' => self.exponent(c),
            '.' => {
                let first = self.peek();
                let after = self.mantissa(first);
                if matches!(after, 'e' | 'E') {
                    let c = self.next();
                    self.exponent(c);
                }
            }
            _ => return false,
        }
        true
    }

    /// Reads an escape sequence after its backslash.
    pub(crate) fn escape(&mut self) {
        match self.next() {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '"' => {}
            c @ '0'..='7' => self.digits(c, 8, 3),
            'x' => self.digits_after(16, 2),
            'u' => self.digits_after(16, 4),
            'U' => self.digits_after(16, 8),
            _ => self.fail("illegal char escape"),
        }
    }

    fn digits_after(&mut self, radix: u32, count: usize) {
        let c = self.next();
        self.digits(c, radix, count);
    }

    fn digits(&mut self, mut c: char, radix: u32, count: usize) {
        let mut left = count;
        while left > 0 && c.is_digit(radix) {
            c = self.next();
            if c == EOF {
                break;
            }
            left -= 1;
        }
        if left > 0 {
            self.fail("illegal char escape");
        }
        if left != count && c != EOF {
            self.unread();
        }
    }
}

pub(crate) struct Scanner<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Scanner<'a> {
    /// `text` has no `\r\n` any more.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text, true) }
    }

    /// What is wrong with the characters read so far.
    pub(crate) fn take_error(&mut self) -> Option<Error> {
        self.cursor.error.take()
    }

    pub(crate) fn has_error(&self) -> bool {
        self.cursor.error.is_some()
    }

    pub(crate) fn scan(&mut self) -> Token {
        let c = self.cursor.next_visible();
        let at = self.cursor.start_of_last();
        let kind = self.kind(c);
        let text = self.cursor.text[at.offset..self.cursor.here.offset].to_owned();
        let kind = match (kind, text.as_str()) {
            (Kind::Ident, "true" | "false") => Kind::Bool,
            (kind, _) => kind,
        };
        Token { kind, at, text, json: false }
    }

    fn kind(&mut self, c: char) -> Kind {
        match c {
            c if is_letter(c) => self.identifier(),
            '0'..='9' => self.number(c),
            EOF => Kind::Eof,
            '"' => self.string(),
            '#' | '/' => self.comment(c),
            '.' => {
                let c = self.cursor.peek();
                if !c.is_ascii_digit() {
                    return Kind::Period;
                }
                let after = self.cursor.mantissa(c);
                self.cursor.exponent(after);
                Kind::Float
            }
            '<' => self.heredoc(),
            '[' => Kind::LBrack,
            ']' => Kind::RBrack,
            '{' => Kind::LBrace,
            '}' => Kind::RBrace,
            ',' => Kind::Comma,
            '=' => Kind::Assign,
            '+' => Kind::Add,
            '-' if self.cursor.peek().is_ascii_digit() => {
                let c = self.cursor.next();
                self.number(c)
            }
            '-' => Kind::Sub,
            _ => {
                self.cursor.fail("illegal char");
                Kind::Illegal
            }
        }
    }

    fn identifier(&mut self) -> Kind {
        let mut c = self.cursor.next();
        while is_letter(c) || is_digit(c) || c == '-' || c == '.' {
            c = self.cursor.next();
        }
        if c != EOF {
            self.cursor.unread();
        }
        Kind::Ident
    }

    fn number(&mut self, c: char) -> Kind {
        if c != '0' {
            self.cursor.mantissa(c);
            let c = self.cursor.next();
            if self.cursor.tail_of_float(c) {
                return Kind::Float;
            }
            if c != EOF {
                self.cursor.unread();
            }
            return Kind::Number;
        }

        let mut c = self.cursor.next();
        if matches!(c, 'x' | 'X') {
            c = self.cursor.next();
            let mut found = false;
            while c.is_ascii_hexdigit() {
                c = self.cursor.next();
                found = true;
            }
            if !found {
                self.cursor.fail("illegal hexadecimal number");
            }
        } else {
            // 0159 is no octal number, but 0159.23 is a float.
            let mut bad_octal = false;
            while c.is_ascii_digit() {
                c = self.cursor.next();
                bad_octal |= matches!(c, '8' | '9');
            }
            if self.cursor.tail_of_float(c) {
                return Kind::Float;
            }
            if bad_octal {
                self.cursor.fail("illegal octal number");
            }
        }
        if c != EOF {
            self.cursor.unread();
        }
        Kind::Number
    }

    fn string(&mut self) -> Kind {
        let mut braces = 0usize;
        loop {
            let c = self.cursor.next();
            if (c == '\n' && braces == 0) || c == EOF {
                self.cursor.fail("literal not terminated");
                break;
            }
            if c == '"' && braces == 0 {
                break;
            }
            // Within ${…} quotes and line breaks are text.
            if braces == 0 && c == '$' && self.cursor.peek() == '{' {
                braces += 1;
                self.cursor.next();
            } else if braces > 0 && c == '{' {
                braces += 1;
            }
            if braces > 0 && c == '}' {
                braces -= 1;
            }
            if c == '\\' {
                self.cursor.escape();
            }
        }
        Kind::String
    }

    fn comment(&mut self, first: char) -> Kind {
        let second = self.cursor.peek();
        if first == '#' || second != '*' {
            if first == '/' && second != '/' {
                self.cursor.fail("expected '/' for comment");
                return Kind::Comment;
            }
            let mut c = self.cursor.next();
            while c != '\n' && c != EOF {
                c = self.cursor.next();
            }
            if c != EOF {
                self.cursor.unread();
            }
            return Kind::Comment;
        }

        self.cursor.next();
        let mut c = self.cursor.next();
        loop {
            if c == EOF {
                self.cursor.fail("comment not terminated");
                break;
            }
            let before = c;
            c = self.cursor.next();
            if before == '*' && c == '/' {
                break;
            }
        }
        Kind::Comment
    }

    fn heredoc(&mut self) -> Kind {
        if let Err(message) = self.heredoc_text() {
            self.cursor.fail(message);
        }
        Kind::Heredoc
    }

    fn heredoc_text(&mut self) -> Result<(), &'static str> {
        if self.cursor.next() != '<' {
            return Err("heredoc expected second '<', didn't see it");
        }
        let start = self.cursor.here.offset;
        let mut c = self.cursor.next();
        if c == '-' {
            c = self.cursor.next();
        }
        while is_letter(c) || is_digit(c) {
            c = self.cursor.next();
        }
        if c == EOF {
            return Err("heredoc not terminated");
        }
        if c != '\n' {
            return Err("invalid characters in heredoc anchor");
        }
        let written = &self.cursor.text[start..self.cursor.here.offset - 1];
        let anchor = written.strip_prefix('-').unwrap_or(written);
        if anchor.is_empty() {
            return Err("zero-length heredoc anchor");
        }

        let mut line_start = self.cursor.here.offset;
        loop {
            match self.cursor.next() {
                '\n' => {
                    let line = &self.cursor.text[line_start..self.cursor.here.offset - 1];
                    // The dash counts: an unindented "EOF" does not close "<<-EOF".
                    if line.len() >= written.len() && is_anchor(line, anchor) {
                        return Ok(());
                    }
                    line_start = self.cursor.here.offset;
                }
                EOF => return Err("heredoc not terminated"),
                _ => {}
            }
        }
    }
}

fn is_anchor(line: &str, anchor: &str) -> bool {
    line.trim_start_matches(['\t', '\n', '\u{0b}', '\u{0c}', '\r', ' ']).trim_end_matches('\r')
        == anchor
}

pub(crate) fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || (!c.is_ascii() && c.is_alphabetic())
}

pub(crate) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}
