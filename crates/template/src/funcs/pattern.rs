//! Regular expressions, in Go's syntax.

use regex::{Regex, RegexBuilder};

use super::{Answer, Func, S, SS, SSS, Ty, func, int, string};
use crate::heap::{Heap, Val};

const SSI: &[Ty] = &[Ty::Str, Ty::Str, Ty::Int];

pub(super) static TABLE: &[Func] = &[
    func("regexMatch", SS, |heap, args| {
        // This one takes a pattern that is none for one that does not match.
        let matches = made(heap, args).map(|regex| regex.is_match(&string(args, 1)));
        Ok(Val::Bool(matches.unwrap_or(false)))
    }),
    func("mustRegexMatch", SS, |heap, args| {
        Ok(Val::Bool(made(heap, args)?.is_match(&string(args, 1))))
    }),
    func("regexFind", SS, |heap, args| find(heap, args, true)),
    func("mustRegexFind", SS, |heap, args| find(heap, args, false)),
    func("regexFindAll", SSI, |heap, args| find_all(heap, args, true)),
    func("mustRegexFindAll", SSI, |heap, args| find_all(heap, args, false)),
    func("regexReplaceAll", SSS, |heap, args| replace(heap, args, true, false)),
    func("mustRegexReplaceAll", SSS, |heap, args| replace(heap, args, false, false)),
    func("regexReplaceAllLiteral", SSS, |heap, args| replace(heap, args, true, true)),
    func("mustRegexReplaceAllLiteral", SSS, |heap, args| replace(heap, args, false, true)),
    func("regexSplit", SSI, |heap, args| split(heap, args, true)),
    func("mustRegexSplit", SSI, |heap, args| split(heap, args, false)),
    func("regexQuoteMeta", S, |heap, args| {
        let mut out = String::new();
        for c in string(args, 0).chars() {
            if r"\.+*?()|[]{}^$".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
        heap.text(out)
    }),
];

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;
/// What a compiled pattern may take, in bytes.
const MAX_COMPILED: usize = 1 << 20;

fn made(heap: &mut Heap, args: &[Val]) -> Result<Regex, String> {
    heap.spend(string(args, 1).len())?;
    heap.regex(&string(args, 0), compile)
}

/// As [`made`], with the error that Go gives where it panics.
fn made_or(heap: &mut Heap, args: &[Val], panics: bool) -> Result<Regex, String> {
    let pattern = string(args, 0);
    made(heap, args).map_err(|what| match panics {
        true => format!("regexp: Compile({}): {what}", crate::print::quoted(&pattern)),
        false => what,
    })
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let broken = || "error parsing regexp: the pattern is malformed or too large".to_owned();
    if pattern.len() > MAX_PATTERN {
        return Err(broken());
    }
    let translated = translate(pattern).ok_or_else(broken)?;
    RegexBuilder::new(&translated).size_limit(MAX_COMPILED).build().map_err(|_| broken())
}

/// A pattern of Go's in the syntax of the engine here, which reads classes of characters as
/// Unicode's, knows operations on sets, and no literal braces.
fn translate(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let letter = after.chars().next()?;
                let beyond = &after[letter.len_utf8()..];
                if letter == 'Q' && !in_class {
                    let (literal, end) = beyond.split_once("\\E").unwrap_or((beyond, ""));
                    out.push_str(&regex::escape(literal));
                    rest = end;
                    continue;
                }
                match (letter, in_class) {
                    ('0'..='7', _) => {
                        let (code, end) = octal(letter, after)?;
                        out.push_str(&format!("\\x{{{code:x}}}"));
                        rest = end;
                        continue;
                    }
                    _ => out.push_str(&escape(letter, in_class)?),
                }
                rest = beyond;
            }
            '[' if in_class && !after.starts_with(':') => {
                out.push_str("\\[");
                rest = after;
            }
            '[' if in_class => {
                let end = after.find(":]")?;
                out.push_str(&rest[..end + 3]);
                rest = &after[end + 2..];
            }
            '[' => {
                in_class = true;
                rest = open_class(&mut out, after);
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
                rest = after;
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
                rest = after;
            }
            '-' if in_class && after.starts_with('-') => {
                out.push_str("\\-");
                rest = after;
            }
            '{' if !in_class && !is_repeat(after) => {
                out.push_str("\\{");
                rest = after;
            }
            '}' if !in_class && !closes_repeat(&out) => {
                out.push_str("\\}");
                rest = after;
            }
            '(' if !in_class && after.starts_with('?') => {
                let flags = after[1..].find([':', ')', '<', 'P']).map(|end| &after[1..=end]);
                if flags.is_some_and(|flags| flags.contains(['x', 'u', 'R'])) {
                    return None;
                }
                out.push('(');
                rest = after;
            }
            c => {
                out.push(c);
                rest = after;
            }
        }
    }
    Some(out)
}

/// Begins a class, in which a bracket that comes first is itself.
fn open_class<'a>(out: &mut String, after: &'a str) -> &'a str {
    out.push('[');
    let mut rest = after;
    if let Some(beyond) = rest.strip_prefix('^') {
        out.push('^');
        rest = beyond;
    }
    if let Some(beyond) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = beyond;
    }
    rest
}

/// What a letter after a backslash stands for.
fn escape(letter: char, in_class: bool) -> Option<String> {
    let text = match (letter, in_class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('D', _) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', false) => r"[\t\n\x0c\r ]",
        ('s', true) => r"\t\n\x0c\r ",
        ('S', _) => r"[^\t\n\x0c\r ]",
        ('b', false) => r"(?-u:\b)",
        ('B', false) => r"(?-u:\B)",
        ('A' | 'z', false) | ('a' | 'f' | 't' | 'n' | 'r' | 'v' | 'x' | 'p' | 'P', _) => {
            return Some(format!("\\{letter}"));
        }
        _ if letter.is_ascii_punctuation() => return Some(format!("\\{letter}")),
        _ => return None,
    };
    Some(text.to_owned())
}

/// The character that an octal escape writes, and what follows it; `after` is from its first digit.
fn octal(letter: char, after: &str) -> Option<(u32, &str)> {
    let more = &after[1..];
    let len = more.find(|c| !matches!(c, '0'..='7')).unwrap_or(more.len());
    if letter != '0' && len == 0 {
        // A back reference, of which there are none.
        return None;
    }
    let (digits, rest) = after.split_at(1 + len.min(2));
    Some((u32::from_str_radix(digits, 8).ok()?, rest))
}

/// Whether what follows a brace makes it a repetition.
fn is_repeat(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else { return false };
    let is_number = |text: &str| {
        !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit())
    };
    match inner.split_once(',') {
        Some((least, "")) => is_number(least),
        Some((least, most)) => is_number(least) && is_number(most),
        None => is_number(inner),
    }
}

/// Whether a brace that comes next closes a repetition that `out` has begun.
fn closes_repeat(out: &str) -> bool {
    let digits = out.trim_end_matches(|c: char| c.is_ascii_digit() || c == ',');
    digits.ends_with('{') && !digits.ends_with("\\{") && digits.len() < out.len()
}

fn find(heap: &mut Heap, args: &[Val], panics: bool) -> Answer {
    let regex = made_or(heap, args, panics)?;
    let text = string(args, 1);
    heap.text(regex.find(&text).map_or("", |found| found.as_str()))
}

fn find_all(heap: &mut Heap, args: &[Val], panics: bool) -> Answer {
    let regex = made_or(heap, args, panics)?;
    let text = string(args, 1);
    let limit = usize::try_from(int(args, 2)).unwrap_or(usize::MAX);
    let found: Vec<&str> = regex.find_iter(&text).take(limit).map(|found| found.as_str()).collect();
    heap.strings(found)
}

fn replace(heap: &mut Heap, args: &[Val], panics: bool, literal: bool) -> Answer {
    let regex = made_or(heap, args, panics)?;
    let (text, with) = (string(args, 1), string(args, 2));
    // What a match may become: the replacement, with groups of what matched.
    let growth = with.len().saturating_add(text.len().saturating_mul(with.matches('$').count()));
    heap.spend(text.len().saturating_mul(growth.min(1 << 16)) / 16)?;
    let mut out = String::new();
    let mut last = 0;
    for found in regex.captures_iter(&text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[last..whole.start()]);
        match literal {
            true => out.push_str(&with),
            false => found.expand(&with, &mut out),
        }
        last = whole.end();
        if out.len() > crate::heap::MAX_STRING {
            return Err("the template makes a string that is too long".to_owned());
        }
    }
    out.push_str(&text[last..]);
    heap.text(out)
}

fn split(heap: &mut Heap, args: &[Val], panics: bool) -> Answer {
    let regex = made_or(heap, args, panics)?;
    let (text, limit) = (string(args, 1), int(args, 2));
    let limit = match usize::try_from(limit) {
        Ok(0) => return heap.strings(Vec::<&str>::new()),
        Ok(limit) => limit,
        Err(_) => usize::MAX,
    };
    if text.is_empty() && !string(args, 0).is_empty() {
        return heap.strings([""]);
    }
    let mut parts: Vec<&str> = Vec::new();
    let (mut begin, mut end) = (0, 0);
    for found in regex.find_iter(&text) {
        if parts.len() + 1 >= limit {
            break;
        }
        end = found.start();
        if found.end() != 0 {
            parts.push(&text[begin..end]);
        }
        begin = found.end();
    }
    if end != text.len() {
        parts.push(&text[begin..]);
    }
    heap.strings(parts)
}
