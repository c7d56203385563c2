//! Text to tokens, in Go's rules.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Error,
    Bool,
    Char,
    CharConstant,
    Complex,
    Assign,
    Declare,
    Eof,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    String,
    Text,
    Variable,
    Dot,
    Nil,
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
}

/// A piece of the text.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Its first byte.
    pub(crate) at: usize,
    pub(crate) line: usize,
    /// Its text, or what is wrong.
    pub(crate) text: String,
}

impl Kind {
    fn is_keyword(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Dot | Nil
                | Block
                | Break
                | Continue
                | Define
                | Else
                | End
                | If
                | Range
                | Template
                | With
        )
    }

    fn of_word(word: &str) -> Self {
        match word {
            "block" => Self::Block,
            "break" => Self::Break,
            "continue" => Self::Continue,
            "define" => Self::Define,
            "else" => Self::Else,
            "end" => Self::End,
            "if" => Self::If,
            "range" => Self::Range,
            "nil" => Self::Nil,
            "template" => Self::Template,
            "with" => Self::With,
            "true" | "false" => Self::Bool,
            _ => Self::Identifier,
        }
    }
}

impl Token {
    /// As Go's errors show it.
    pub(crate) fn shown(&self) -> String {
        match self.kind {
            Kind::Eof => "EOF".to_owned(),
            Kind::Error => self.text.clone(),
            kind if kind.is_keyword() => format!("<{}>", self.text),
            _ if self.text.len() > 10 => {
                let cut: String = self.text.chars().take(10).collect();
                format!("{}...", crate::print::quoted(&cut))
            }
            _ => crate::print::quoted(&self.text),
        }
    }
}

/// The tokens of `text`; the last is `Eof` or `Error`.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, start: 0, parens: 0, tokens: Vec::new() };
    if let Err(what) = lexer.run() {
        lexer.push_text(Kind::Error, what);
    } else {
        lexer.start = text.len();
        lexer.push_text(Kind::Eof, String::new());
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    start: usize,
    parens: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            let Some(offset) = self.text[self.at..].find("{{") else {
                self.at = self.text.len();
                self.push_nonempty_text(self.at);
                return Ok(());
            };
            self.at += offset;
            let trims = trims_left(&self.text[self.at + 2..]);
            let end = if trims {
                self.start + self.text[self.start..self.at].trim_end_matches(SPACES).len()
            } else {
                self.at
            };
            self.push_nonempty_text(end);
            self.start = self.at;
            let after = self.at + 2 + if trims { 2 } else { 0 };
            if self.text[after..].starts_with("/*") {
                self.at = after;
                self.start = after;
                self.comment()?;
                continue;
            }
            self.at += 2;
            self.push(Kind::LeftDelim);
            self.at = after;
            self.start = after;
            self.parens = 0;
            while self.action()? {}
        }
    }

    /// A comment, whose beginning is next.
    fn comment(&mut self) -> Result<(), String> {
        let Some(end) = self.text[self.at + 2..].find("*/") else {
            return Err("unclosed comment".to_owned());
        };
        self.at += 2 + end + 2;
        let Some(trims) = self.right_delim() else {
            return Err("comment ends before closing delimiter".to_owned());
        };
        self.close(trims);
        Ok(())
    }

    fn close(&mut self, trims: bool) {
        self.at += if trims { 4 } else { 2 };
        if trims {
            let rest = &self.text[self.at..];
            self.at += rest.len() - rest.trim_start_matches(SPACES).len();
        }
        self.start = self.at;
    }

    /// Whether an action ends here, and if so whether it trims what follows.
    fn right_delim(&self) -> Option<bool> {
        let rest = &self.text[self.at..];
        if trims_right(rest) && rest[2..].starts_with("}}") {
            return Some(true);
        }
        rest.starts_with("}}").then_some(false)
    }

    /// One token of an action; `false` after the last.
    fn action(&mut self) -> Result<bool, String> {
        if let Some(trims) = self.right_delim() {
            if self.parens > 0 {
                return Err("unclosed left paren".to_owned());
            }
            if trims {
                self.start += 2;
            }
            let token = Token {
                kind: Kind::RightDelim,
                at: self.start,
                line: self.line(self.start),
                text: "}}".to_owned(),
            };
            self.tokens.push(token);
            self.close(trims);
            return Ok(false);
        }
        let Some(next) = self.next() else { return Err("unclosed action".to_owned()) };
        match next {
            c if SPACES.contains(&c) => self.spaces(),
            '=' => self.push(Kind::Assign),
            ':' if self.next() == Some('=') => self.push(Kind::Declare),
            ':' => return Err("expected :=".to_owned()),
            '|' => self.push(Kind::Pipe),
            '"' => self.quoted('"', Kind::String, "unterminated quoted string")?,
            '\'' => self.quoted('\'', Kind::CharConstant, "unterminated character constant")?,
            '`' => {
                let Some(end) = self.text[self.at..].find('`') else {
                    return Err("unterminated raw quoted string".to_owned());
                };
                self.at += end + 1;
                self.push(Kind::RawString);
            }
            '$' => self.name(Kind::Variable, Kind::Variable)?,
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                self.name(Kind::Field, Kind::Dot)?;
            }
            c if matches!(c, '.' | '+' | '-') || c.is_ascii_digit() => {
                self.at -= 1;
                self.number()?;
            }
            c if is_word(c) => {
                while self.peek().is_some_and(is_word) {
                    self.next();
                }
                self.terminated()?;
                self.push(Kind::of_word(&self.text[self.start..self.at]));
            }
            '(' => {
                self.parens += 1;
                self.push(Kind::LeftParen);
            }
            ')' if self.parens == 0 => return Err("unexpected right paren".to_owned()),
            ')' => {
                self.parens -= 1;
                self.push(Kind::RightParen);
            }
            c if c.is_ascii_graphic() => self.push(Kind::Char),
            c => return Err(format!("unrecognized character in action: {}", code_point(c))),
        }
        Ok(true)
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(|c| SPACES.contains(&c)) {
            self.at += 1;
        }
        // The last space may belong to a trim marker.
        let last = self.at - 1;
        if trims_right(&self.text[last..]) && self.text[last + 2..].starts_with("}}") {
            self.at = last;
            if self.at == self.start {
                return;
            }
        }
        self.push(Kind::Space);
    }

    /// What follows `.` or `$`.
    fn name(&mut self, named: Kind, bare: Kind) -> Result<(), String> {
        if self.at_terminator() {
            self.push(bare);
            return Ok(());
        }
        while self.peek().is_some_and(is_word) {
            self.next();
        }
        self.terminated()?;
        self.push(named);
        Ok(())
    }

    fn quoted(&mut self, close: char, kind: Kind, broken: &str) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\\') if !matches!(self.next(), None | Some('\n')) => {}
                None | Some('\n' | '\\') => return Err(broken.to_owned()),
                Some(c) if c == close => break,
                Some(_) => {}
            }
        }
        self.push(kind);
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        let bad = |lexer: &Self| {
            let text = &lexer.text[lexer.start..lexer.at];
            Err(format!("bad number syntax: {}", crate::print::quoted(text)))
        };
        if !self.scan_number() {
            return bad(self);
        }
        if matches!(self.peek(), Some('+' | '-')) {
            if !self.scan_number() || !self.text[..self.at].ends_with('i') {
                return bad(self);
            }
            self.push(Kind::Complex);
        } else {
            self.push(Kind::Number);
        }
        Ok(())
    }

    fn scan_number(&mut self) -> bool {
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        while self.accept(digits) {}
        if self.accept(".") {
            while self.accept(digits) {}
        }
        let exponent = match digits.len() {
            11 => "eE",
            23 => "pP",
            _ => "",
        };
        if self.accept(exponent) {
            self.accept("+-");
            while self.accept("0123456789_") {}
        }
        self.accept("i");
        if self.peek().is_some_and(is_word) {
            self.next();
            return false;
        }
        true
    }

    fn accept(&mut self, of: &str) -> bool {
        let accepted = self.peek().is_some_and(|c| of.contains(c));
        if accepted {
            self.at += 1;
        }
        accepted
    }

    fn terminated(&self) -> Result<(), String> {
        if self.at_terminator() {
            return Ok(());
        }
        let next = self.peek().map_or_else(|| "EOF".to_owned(), code_point);
        Err(format!("bad character {next}"))
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None => true,
            Some(c) if SPACES.contains(&c) => true,
            Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(_) => self.text[self.at..].starts_with("}}"),
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// The line of a byte; asked in order, so that the last token's is the place to count from.
    fn line(&self, at: usize) -> usize {
        let (line, from) = self.tokens.last().map_or((1, 0), |last| (last.line, last.at));
        line + self.text[from..at].bytes().filter(|byte| *byte == b'\n').count()
    }

    fn push(&mut self, kind: Kind) {
        let text = self.text[self.start..self.at].to_owned();
        self.push_text(kind, text);
        self.start = self.at;
    }

    fn push_text(&mut self, kind: Kind, text: String) {
        let line = self.line(self.start);
        self.tokens.push(Token { kind, at: self.start, line, text });
    }

    fn push_nonempty_text(&mut self, end: usize) {
        if end > self.start {
            let text = self.text[self.start..end].to_owned();
            self.push_text(Kind::Text, text);
        }
        self.start = self.at;
    }
}

fn code_point(c: char) -> String {
    let code = u32::from(c);
    if c.is_control() { format!("U+{code:04X}") } else { format!("U+{code:04X} '{c}'") }
}

fn trims_left(rest: &str) -> bool {
    let mut chars = rest.chars();
    chars.next() == Some('-') && chars.next().is_some_and(|c| SPACES.contains(&c))
}

fn trims_right(rest: &str) -> bool {
    let mut chars = rest.chars();
    chars.next().is_some_and(|c| SPACES.contains(&c)) && chars.next() == Some('-')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

const SPACES: &[char] = &[' ', '\t', '\r', '\n'];
