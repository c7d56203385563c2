//! Upper and lower case, and the joining of words into names.

use super::{Func, S, func, string};
use crate::heap::{Heap, Val};

pub(super) static TABLE: &[Func] = &[
    func("upper", S, |heap, args| mapped(heap, args, |text| text.chars().map(upper).collect())),
    func("lower", S, |heap, args| mapped(heap, args, |text| text.chars().map(lower).collect())),
    func("title", S, |heap, args| mapped(heap, args, title)),
    func("untitle", S, |heap, args| mapped(heap, args, untitle)),
    func("initials", S, |heap, args| mapped(heap, args, initials)),
    func("swapcase", S, |heap, args| mapped(heap, args, swapcase)),
    func("snakecase", S, |heap, args| mapped(heap, args, |text| joined(text, '_'))),
    func("kebabcase", S, |heap, args| mapped(heap, args, |text| joined(text, '-'))),
    func("camelcase", S, |heap, args| mapped(heap, args, pascal)),
];

fn mapped(heap: &mut Heap, args: &[Val], map: impl Fn(&str) -> String) -> Result<Val, String> {
    let text = string(args, 0);
    heap.afford(text.len())?;
    heap.text(map(&text))
}

/// The upper case of one character, where that is one character.
fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn lower(c: char) -> char {
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn title(text: &str) -> String {
    let mut before = ' ';
    text.chars()
        .map(|c| {
            let starts = match before {
                '_' => false,
                c if c.is_ascii() => !c.is_ascii_alphanumeric(),
                c => !c.is_alphanumeric() && c.is_whitespace(),
            };
            before = c;
            if starts { upper(c) } else { c }
        })
        .collect()
}

fn untitle(text: &str) -> String {
    let mut starts = true;
    text.chars()
        .map(|c| {
            let was = std::mem::replace(&mut starts, c.is_whitespace());
            if was && !c.is_whitespace() { lower(c) } else { c }
        })
        .collect()
}

/// The first byte of each word, as sprig reads them.
fn initials(text: &str) -> String {
    let mut out = String::new();
    let mut starts = true;
    for c in text.bytes().map(char::from) {
        if c.is_whitespace() {
            starts = true;
        } else if std::mem::take(&mut starts) {
            out.push(c);
        }
    }
    out
}

fn swapcase(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_uppercase() => lower(c),
            c if c.is_lowercase() => upper(c),
            c => c,
        })
        .collect()
}

fn is_connector(c: char) -> bool {
    matches!(c, '-' | '_') || c.is_whitespace()
}

fn pascal(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::new();
    let mut last = None;
    let mut shouting = false;
    for c in chars.by_ref() {
        if !is_connector(c) {
            shouting = c.is_uppercase();
            last = Some(upper(c));
            break;
        }
        out.push(c);
    }
    let Some(mut last) = last else {
        // As upstream does it: the last of nothing but connectors stands twice.
        out.extend(text.chars().next_back());
        return out;
    };
    for c in chars {
        let mut c = c;
        if is_connector(c) && is_connector(last) {
            out.push(last);
            // The run's last connector stands for the end of a word.
            last = c;
            continue;
        }
        if is_connector(last) {
            shouting = c.is_uppercase();
            c = upper(c);
        } else {
            if shouting {
                if c.is_uppercase() {
                    c = lower(c);
                } else {
                    shouting = false;
                }
            }
            out.push(last);
        }
        last = c;
    }
    out.push(last);
    out
}

/// What a run of characters is, for [`joined`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    Number,
    Upper,
    Letters,
    Connector,
    Punctuation,
    Other,
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic()
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_punctuation()
            && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~')
    } else {
        false
    }
}

fn run_of(c: char) -> Run {
    match c {
        c if is_connector(c) => Run::Connector,
        c if is_punctuation(c) => Run::Punctuation,
        c if c.is_uppercase() => Run::Upper,
        c if is_letter(c) => Run::Letters,
        c if c.is_numeric() => Run::Number,
        _ => Run::Other,
    }
}

/// The next run of characters of one sort: `HTTPStatus` is `HTTP` and `Status`.
fn next_run<'a>(rest: &mut &'a str) -> Option<(Run, &'a str)> {
    let text = *rest;
    let first = text.chars().next()?;
    let run = run_of(first);
    let while_true = |from: usize, good: &dyn Fn(char) -> bool| {
        text[from..].find(|c: char| !good(c)).map_or(text.len(), |at| from + at)
    };
    let after = first.len_utf8();
    let is_lower_letter = |c: char| is_letter(c) && !c.is_uppercase();
    let end = match run {
        Run::Connector => while_true(after, &is_connector),
        Run::Punctuation => while_true(after, &is_punctuation),
        Run::Number => while_true(after, &char::is_numeric),
        Run::Letters => while_true(after, &is_lower_letter),
        Run::Other => while_true(after, &|c| run_of(c) == Run::Other),
        Run::Upper => match text[after..].chars().next() {
            Some(c) if c.is_uppercase() => {
                let end = while_true(after, &char::is_uppercase);
                let followed = text[end..].chars().next().is_some_and(is_letter);
                let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
                if followed { end - last } else { end }
            }
            Some(c) if is_letter(c) => while_true(after, &is_lower_letter),
            _ => after,
        },
    };
    *rest = &text[end..];
    Some((run, &text[..end]))
}

/// Words in lower case with `connector` between them.
fn joined(text: &str, connector: char) -> String {
    let mut rest = text;
    let mut out = String::new();
    let write = |out: &mut String, run: Run, word: &str| match run {
        Run::Upper | Run::Connector => out.extend(word.chars().map(|c| match c {
            c if is_connector(c) => connector,
            c => lower(c),
        })),
        _ => out.push_str(word),
    };
    let joins =
        |run: Option<Run>| run.is_some_and(|run| !matches!(run, Run::Connector | Run::Punctuation));
    let mut current = next_run(&mut rest);
    while let Some((run, word)) = current {
        if rest.is_empty() {
            write(&mut out, run, word);
            break;
        }
        if run != Run::Connector {
            write(&mut out, run, word);
        }
        current = next_run(&mut rest);
        match run {
            Run::Number => {
                follow(&mut current, &mut rest, &mut out);
                if joins(current.map(|(run, _)| run)) {
                    out.push(connector);
                }
            }
            Run::Connector => write(&mut out, run, word),
            Run::Punctuation => {}
            _ => match current {
                Some((Run::Number, number)) => {
                    if rest.is_empty() {
                        continue;
                    }
                    current = next_run(&mut rest);
                    if matches!(current, Some((Run::Letters, _))) {
                        out.push(connector);
                        out.push_str(number);
                        follow(&mut current, &mut rest, &mut out);
                    } else {
                        out.push_str(number);
                    }
                    if joins(current.map(|(run, _)| run)) {
                        out.push(connector);
                    }
                }
                current => {
                    if joins(current.map(|(run, _)| run)) {
                        out.push(connector);
                    }
                }
            },
        }
    }
    out
}

/// Takes the letters and numbers that belong to a number.
fn follow<'a>(current: &mut Option<(Run, &'a str)>, rest: &mut &'a str, out: &mut String) {
    while let Some((Run::Letters | Run::Number, word)) = *current {
        out.push_str(word);
        *current = next_run(rest);
    }
}
