//! Patterns as Go's `regexp` reads them (RE2), matched by an engine that never backtracks either.
//!
//! Both engines have RE2's syntax but for corners in which the same text means something else:
//! classes such as `\d` are ASCII in Go, `\Q…\E` quotes, `{` is itself where it counts nothing,
//! and in a class `[`, `&` and `~` mean themselves. So a pattern is taken apart and written anew.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex::bytes::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// The names of classes of characters.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// The most that Go lets something be repeated.
const MAX_REPEAT: u32 = 1000;

/// What a compiled pattern may take, in bytes.
const MAX_SIZE: usize = 1 << 20;

/// Why a pattern is none, in Go's words as far as they are ours to have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BadPattern {
    #[error("error parsing regexp: {0}: `{1}`")]
    Syntax(&'static str, String),
    #[error("error parsing regexp: it is longer than {MAX_PATTERN} bytes")]
    Long,
    #[error("error parsing regexp: {0}")]
    Engine(String),
}

pub(super) fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    if pattern.len() > MAX_PATTERN {
        return Err(BadPattern::Long);
    }
    let written = Rewriter { rest: pattern.chars().peekable(), out: String::new() }.rewrite()?;
    RegexBuilder::new(&written).size_limit(MAX_SIZE).build().map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        match last {
            "unclosed group" => BadPattern::Syntax("missing closing )", pattern.to_owned()),
            "unopened group" => BadPattern::Syntax("unexpected )", pattern.to_owned()),
            other => BadPattern::Engine(other.to_owned()),
        }
    })
}

fn bad<T>(what: &'static str, fragment: impl Into<String>) -> Result<T, BadPattern> {
    Err(BadPattern::Syntax(what, fragment.into()))
}

const NO_ARGUMENT: &str = "missing argument to repetition operator";
const ESCAPE: &str = "invalid escape sequence";

struct Rewriter<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

/// What the last piece was, for those that refer to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Piece,
    Repeat,
}

impl Rewriter<'_> {
    fn rewrite(mut self) -> Result<String, BadPattern> {
        let mut last = Last::Nothing;
        while let Some(character) = self.rest.next() {
            last = match character {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '*' | '+' | '?' => self.repeat(&character.to_string(), last)?,
                '{' => match self.counts()? {
                    Some(counts) => self.repeat(&counts, last)?,
                    None => self.literal('{'),
                },
                '(' => {
                    self.group()?;
                    Last::Nothing
                }
                '|' => {
                    self.out.push('|');
                    Last::Nothing
                }
                ')' | '.' | '^' | '$' => {
                    self.out.push(character);
                    Last::Piece
                }
                other => self.literal(other),
            };
        }
        Ok(self.out)
    }

    fn literal(&mut self, character: char) -> Last {
        self.write(character);
        Last::Piece
    }

    /// A character that means itself, in or out of a class.
    fn write(&mut self, character: char) {
        if character.is_alphanumeric() {
            self.out.push(character);
        } else {
            let _ = write!(self.out, "\\x{{{:X}}}", u32::from(character));
        }
    }

    fn repeat(&mut self, operator: &str, last: Last) -> Result<Last, BadPattern> {
        match last {
            Last::Nothing => return bad(NO_ARGUMENT, operator),
            Last::Repeat => return bad("invalid nested repetition operator", operator),
            Last::Piece => {}
        }
        self.out.push_str(operator);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        Ok(Last::Repeat)
    }

    /// `{n}`, `{n,}` or `{n,m}` after the brace; if it is none, nothing is taken.
    fn counts(&mut self) -> Result<Option<String>, BadPattern> {
        let ahead: String = self.rest.clone().take_while(|it| *it != '}').take(12).collect();
        let closed = self.rest.clone().nth(ahead.chars().count()) == Some('}');
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            plain && (text == "0" || !text.starts_with('0'))
        };
        let (low, high) = ahead.split_once(',').unwrap_or((&ahead, ""));
        if !closed || !number(low) || !(high.is_empty() || number(high)) {
            return Ok(None);
        }
        let large = |text: &str| text.parse::<u32>().map_or(!text.is_empty(), |it| it > MAX_REPEAT);
        if large(low) || large(high) {
            return bad("invalid repeat count", format!("{{{ahead}}}"));
        }
        self.rest.nth(ahead.chars().count());
        Ok(Some(format!("{{{ahead}}}")))
    }

    /// What follows `(`: a plain group, a named one, or flags.
    fn group(&mut self) -> Result<(), BadPattern> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        let ahead: String = self.rest.clone().take(2).collect();
        if ahead == "P<" || ahead.starts_with('<') && !matches!(&*ahead, "<=" | "<!") {
            let rest: String = self.rest.clone().collect();
            for character in self.rest.by_ref() {
                self.out.push(character);
                if character == '>' {
                    return Ok(());
                }
            }
            return bad("invalid named capture", format!("(?{rest}"));
        }
        for character in self.rest.by_ref() {
            match character {
                'i' | 'm' | 's' | 'U' | '-' => self.out.push(character),
                ':' | ')' => {
                    self.out.push(character);
                    return Ok(());
                }
                other => return bad("invalid or unsupported Perl syntax", format!("(?{other}")),
            }
        }
        bad("missing argument to repetition operator", "?")
    }

    /// What follows `\` out of a class.
    fn escape(&mut self) -> Result<Last, BadPattern> {
        match self.rest.peek().copied() {
            None => return bad("trailing backslash at end of expression", ""),
            Some(anchor @ ('A' | 'z')) => {
                self.rest.next();
                self.out.push('\\');
                self.out.push(anchor);
            }
            Some(boundary @ ('b' | 'B')) => {
                self.rest.next();
                let _ = write!(self.out, "(?-u:\\{boundary})");
            }
            Some('Q') => {
                self.rest.next();
                return Ok(self.quoted());
            }
            Some(_) => match self.escaped()? {
                Escaped::Character(character) => self.write(character),
                Escaped::Class(class) => {
                    let _ = write!(self.out, "[{class}]");
                }
            },
        }
        Ok(Last::Piece)
    }

    fn quoted(&mut self) -> Last {
        let mut last = Last::Nothing;
        while let Some(character) = self.rest.next() {
            if character == '\\' && self.rest.next_if_eq(&'E').is_some() {
                break;
            }
            last = self.literal(character);
        }
        last
    }

    /// What follows `\`, in or out of a class.
    fn escaped(&mut self) -> Result<Escaped, BadPattern> {
        let Some(character) = self.rest.next() else {
            return bad("trailing backslash at end of expression", "");
        };
        let class = |text: &str| Ok(Escaped::Class(text.to_owned()));
        let control = |code: u8| Ok(Escaped::Character(char::from(code)));
        match character {
            'd' => class("0-9"),
            'D' => class("^0-9"),
            'w' => class("0-9A-Za-z_"),
            'W' => class("^0-9A-Za-z_"),
            's' => class(r"\t\n\x0C\r\x20"),
            'S' => class(r"^\t\n\x0C\r\x20"),
            'a' => control(7),
            'f' => control(12),
            't' => control(9),
            'n' => control(10),
            'r' => control(13),
            'v' => control(11),
            'x' => self.hexadecimal().map(Escaped::Character),
            '0'..='7' => self.octal(character).map(Escaped::Character),
            'p' | 'P' => self.property(character),
            other if other.is_ascii_punctuation() || other == ' ' || other.is_ascii_control() => {
                Ok(Escaped::Character(other))
            }
            other => bad(ESCAPE, format!("\\{other}")),
        }
    }

    /// `\x7F` or `\x{10FFFF}`.
    fn hexadecimal(&mut self) -> Result<char, BadPattern> {
        let digits: String = if self.rest.next_if_eq(&'{').is_some() {
            self.rest.by_ref().take(9).take_while(|it| *it != '}').collect()
        } else {
            self.rest.by_ref().take(2).collect()
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = if plain { u32::from_str_radix(&digits, 16).ok() } else { None };
        code.and_then(char::from_u32).map_or_else(|| bad(ESCAPE, r"\x"), Ok)
    }

    /// Up to three digits; a single one other than 0 would refer back, which RE2 cannot.
    fn octal(&mut self, first: char) -> Result<char, BadPattern> {
        let mut digits = String::from(first);
        while digits.len() < 3 {
            match self.rest.next_if(|it| matches!(it, '0'..='7')) {
                Some(digit) => digits.push(digit),
                None => break,
            }
        }
        if digits.len() == 1 && first != '0' {
            return bad(ESCAPE, format!("\\{first}"));
        }
        let code = u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32);
        code.map_or_else(|| bad(ESCAPE, format!("\\{digits}")), Ok)
    }

    /// `\pL`, `\p{Greek}`, `\p{^Greek}`: handed on, since both engines have Unicode's names.
    fn property(&mut self, kind: char) -> Result<Escaped, BadPattern> {
        let name: String = match self.rest.next() {
            Some('{') => self.rest.by_ref().take(40).take_while(|it| *it != '}').collect(),
            Some(one) => one.to_string(),
            None => String::new(),
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return bad("invalid character class range", format!("\\{kind}"));
        }
        let positive = (kind == 'p') != negated;
        Ok(Escaped::Class(format!(r"\{}{{{name}}}", if positive { 'p' } else { 'P' })))
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<Last, BadPattern> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(character) = self.rest.next() else { return bad("missing closing ]", "[") };
            match character {
                ']' if !first => break,
                '[' if self.rest.peek() == Some(&':') => self.posix()?,
                _ => self.item(character)?,
            }
            first = false;
        }
        self.out.push(']');
        Ok(Last::Piece)
    }

    /// `[:alpha:]` after the bracket; both engines have the same names.
    fn posix(&mut self) -> Result<(), BadPattern> {
        let ahead: String = self.rest.clone().take(12).collect();
        let Some(end) = ahead.find(":]") else { return self.item('[') };
        let name: String = self.rest.by_ref().take(end + 2).collect();
        let bare = name[1..end].trim_start_matches('^');
        if !POSIX.contains(&bare) || name.starts_with(":^^") {
            return bad("invalid character class range", format!("[{name}"));
        }
        let _ = write!(self.out, "[{name}");
        Ok(())
    }

    /// A character, a range or a class of a class.
    fn item(&mut self, character: char) -> Result<(), BadPattern> {
        let low = match character {
            '\\' => match self.escaped()? {
                Escaped::Character(character) => character,
                Escaped::Class(class) => {
                    let _ = write!(self.out, "[{class}]");
                    return Ok(());
                }
            },
            other => other,
        };
        let mut ahead = self.rest.clone();
        let range = ahead.next() == Some('-') && ahead.next().is_some_and(|it| it != ']');
        self.write(low);
        if !range {
            return Ok(());
        }
        self.rest.next();
        let high = match self.rest.next() {
            Some('\\') => match self.escaped()? {
                Escaped::Character(character) => character,
                Escaped::Class(_) => {
                    return bad("invalid character class range", format!("{low}-"));
                }
            },
            Some(other) => other,
            None => return bad("missing closing ]", "["),
        };
        if low > high {
            return bad("invalid character class range", format!("{low}-{high}"));
        }
        self.out.push('-');
        self.write(high);
        Ok(())
    }
}

enum Escaped {
    Character(char),
    /// As the inside of a class.
    Class(String),
}
