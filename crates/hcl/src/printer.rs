//! The tree becomes text in the canonical layout of HCL's own formatter, which
//! is what plugins are handed as their `plugin_data`.
//!
//! Comments that belong to no item are left out, as the formatter does for
//! any part of a file.

use std::iter::repeat_n;

use crate::{
    ast::{Body, Item, List, Literal, Object, Value},
    token::Kind,
};

/// Stands before a line whose indent is part of a text and must stay as it is;
/// the scanner lets no text contain it.
const KEEP: char = '\u{e123}';

pub(crate) fn print_body(body: &Body) -> String {
    unmark(&items(body))
}

pub(crate) fn print_value(value: &Value) -> String {
    unmark(&output(value))
}

/// An item and its value alone, both rendered once however often they are
/// measured.
struct Rendered<'a> {
    item: &'a Item,
    whole: String,
    value: String,
}

impl<'a> Rendered<'a> {
    fn new(item: &'a Item) -> Self {
        let value = output(&item.value);
        Self { item, whole: whole(item, &value), value }
    }

    fn line(&self) -> i64 {
        line_of(self.item)
    }
}

fn items(body: &Body) -> String {
    let mut out = String::new();
    for (index, item) in body.items.iter().enumerate() {
        out.push_str(&Rendered::new(item).whole);
        if let Some(next) = body.items.get(index + 1) {
            out.push('\n');
            let adjacent = line_of(next) == line_of(item) + 1;
            if !adjacent || !is_empty_block(next) || !is_empty_block(item) {
                out.push('\n');
            }
        }
    }
    out
}

fn whole(item: &Item, value: &str) -> String {
    let mut out = String::new();
    let same_line = value_shares_line(item);
    let above = item.lead_comment.iter();
    let moved_up = item.line_comment.iter().filter(|_| !same_line);
    for comment in above.chain(moved_up) {
        out.push_str(comment);
        out.push('\n');
    }
    for key in &item.keys {
        out.push_str(&key.token.text);
        out.push(' ');
    }
    if item.assigned && item.keys.len() == 1 {
        out.push_str("= ");
    }
    out.push_str(value);
    if same_line && !item.line_comment.is_empty() {
        out.push(' ');
        out.extend(item.line_comment.iter().map(String::as_str));
    }
    out
}

fn output(value: &Value) -> String {
    match value {
        Value::Literal(literal) => self::literal(literal),
        Value::List(list) => self::list(list),
        Value::Object(object) => self::object(object),
    }
}

fn literal(literal: &Literal) -> String {
    let text = literal.token.text.as_str();
    match literal.token.kind {
        Kind::Heredoc => mark(text.strip_suffix('\n').unwrap_or(text)),
        Kind::String => mark(text),
        _ => text.to_owned(),
    }
}

fn object(object: &Object) -> String {
    let rendered: Vec<_> = object.body.items.iter().map(Rendered::new).collect();
    let mut out = String::from("{");
    if !rendered.is_empty() {
        out.push('\n');
    }
    let mut index = 0;
    while index < rendered.len() {
        let start = index;
        index = end_of_run(&rendered, start);
        let run = &rendered[start..index];
        if start > 0 {
            out.push('\n');
        }
        if run.is_empty() {
            out.push_str(&indent(&rendered[index].whole));
            index += 1;
        } else {
            out.push_str(&indent(&aligned(run)));
        }
        out.push('\n');
    }
    out.push('}');
    out
}

/// Where the run of one-line neighbours that starts at `start` ends; at `start`
/// itself when there is none.
fn end_of_run(rendered: &[Rendered<'_>], start: usize) -> usize {
    if rendered.len() == 1 {
        return start;
    }
    let mut index = start;
    while let Some(current) = rendered.get(index) {
        // A line, and maybe one of comment above it.
        if current.whole.matches('\n').count() > 1 {
            break;
        }
        let line = current.line();
        let next = rendered.get(index + 1).map_or(0, Rendered::line);
        let previous = index.checked_sub(1).map_or(0, |at| rendered[at].line());
        if line + 1 == next {
            index += 1;
        } else {
            if line - 1 == previous {
                index += 1;
            }
            break;
        }
    }
    index
}

fn aligned(run: &[Rendered<'_>]) -> String {
    let key_length = |item: &Item| item.keys.first().map_or(0, |key| key.token.text.len());
    let longest_key = run.iter().map(|one| key_length(one.item)).max().unwrap_or(0);
    let longest_value = run.iter().map(|one| one.value.len()).max().unwrap_or(0);

    let mut out = String::new();
    for (index, one) in run.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for comment in &one.item.lead_comment {
            out.push_str(comment);
            out.push('\n');
        }
        for key in &one.item.keys {
            out.push_str(&key.token.text);
            pad(&mut out, (longest_key + 1).saturating_sub(key.token.text.len()));
        }
        if one.item.keys.len() == 1 {
            out.push_str("= ");
        }
        out.push_str(&one.value);
        if value_shares_line(one.item) && !one.item.line_comment.is_empty() {
            pad(&mut out, longest_value + 1 - one.value.len());
            out.extend(one.item.line_comment.iter().map(String::as_str));
        }
    }
    out
}

fn list(list: &List) -> String {
    if is_one_line(list) {
        return one_line(list);
    }
    let longest = list.values.iter().filter_map(as_literal).map(|one| one.token.text.len()).max();
    let longest = longest.unwrap_or(0);

    let mut out = String::from("[\n");
    let mut after_empty_line = false;
    for (index, value) in list.values.iter().enumerate() {
        let literal = as_literal(value);
        let lead_comment = literal.map_or(&[][..], |literal| &literal.lead_comment);
        if !lead_comment.is_empty() && !after_empty_line && index > 0 {
            out.push('\n');
        }
        for comment in lead_comment {
            out.push_str(&indent(comment));
            out.push('\n');
        }

        let text = output(value);
        out.push_str(&indent(&text));
        match literal.is_some_and(|literal| literal.token.kind == Kind::Heredoc) {
            true => out.push_str("\n  ,"),
            false => out.push(','),
        }
        if let Some(literal) = literal
            && !literal.line_comment.is_empty()
        {
            pad(&mut out, 1 + longest.saturating_sub(text.len()));
            out.extend(literal.line_comment.iter().map(String::as_str));
        }
        out.push('\n');

        after_empty_line = !lead_comment.is_empty() && index + 1 != list.values.len();
        if after_empty_line {
            out.push('\n');
        }
    }
    out.push(']');
    out
}

/// Literals only, written on one line, without comments behind them.
fn is_one_line(list: &List) -> bool {
    let line = if list.json { 0 } else { list.at.line };
    list.values.iter().all(|value| {
        value.line() == line
            && as_literal(value).is_some_and(|literal| {
                literal.line_comment.is_empty()
                    && (literal.token.kind != Kind::Heredoc || list.values.len() == 1)
            })
    })
}

fn one_line(list: &List) -> String {
    let mut out = String::from("[");
    for (index, value) in list.values.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        out.push_str(&output(value));
        if as_literal(value).is_some_and(|literal| literal.token.kind == Kind::Heredoc) {
            out.push('\n');
        }
    }
    out.push(']');
    out
}

fn as_literal(value: &Value) -> Option<&Literal> {
    match value {
        Value::Literal(literal) => Some(literal),
        _ => None,
    }
}

fn is_empty_block(item: &Item) -> bool {
    item.lead_comment.is_empty()
        && !item.assigned
        && matches!(&item.value, Value::Object(object) if object.body.items.is_empty())
}

fn line_of(item: &Item) -> i64 {
    item.keys.first().map_or(0, |key| i64::try_from(key.token.line()).unwrap_or(0))
}

fn value_shares_line(item: &Item) -> bool {
    i64::try_from(item.value.line()).is_ok_and(|line| line == line_of(item))
}

fn pad(out: &mut String, count: usize) {
    out.extend(repeat_n(' ', count));
}

fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        if line != "\n" {
            out.push_str("  ");
        }
        out.push_str(line);
    }
    out
}

/// Marks the second and later lines as ones to leave alone.
fn mark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if index > 0 && line != "\n" {
            out.push(KEEP);
        }
        out.push_str(line);
    }
    out
}

/// Takes the marks away, and the indent that was put before them.
fn unmark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(KEEP) {
        match piece.strip_suffix(KEEP) {
            None => out.push_str(piece),
            Some(before) => {
                out.push_str(before);
                out.truncate(out.rfind('\n').map_or(0, |at| at + 1));
            }
        }
    }
    out
}
