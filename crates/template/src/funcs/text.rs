//! Sprig's functions on strings.

use super::{A, Answer, Func, IS, S, SS, SSS, Ty, func, int, rest, string, strval};
use crate::heap::{Heap, Val};
use crate::print;

const CUT: &str = "the string would be cut inside of a character";

pub(super) static TABLE: &[Func] = &[
    func("abbrev", IS, |heap, args| abbreviate(heap, 0, int(args, 0), &string(args, 1))),
    func("abbrevboth", &[Ty::Int, Ty::Int, Ty::Str], abbrevboth),
    func("trunc", IS, trunc),
    func("trim", S, |heap, args| heap.text(string(args, 0).trim())),
    func("substr", &[Ty::Int, Ty::Int, Ty::Str], substr),
    func("repeat", IS, repeat),
    func("trimAll", SS, |heap, args| {
        let set = string(args, 0);
        heap.text(string(args, 1).trim_matches(|c| set.contains(c)))
    }),
    func("trimSuffix", SS, |heap, args| {
        let text = string(args, 1);
        heap.text(text.strip_suffix(&*string(args, 0)).unwrap_or(&text))
    }),
    func("trimPrefix", SS, |heap, args| {
        let text = string(args, 1);
        heap.text(text.strip_prefix(&*string(args, 0)).unwrap_or(&text))
    }),
    func("nospace", S, |heap, args| heap.text(nospace(&string(args, 0)))),
    func("wrap", IS, |heap, args| wrap(heap, int(args, 0), "", &string(args, 1), false)),
    func("wrapWith", &[Ty::Int, Ty::Str, Ty::Str], |heap, args| {
        wrap(heap, int(args, 0), &string(args, 1), &string(args, 2), true)
    }),
    func("contains", SS, |_, args| Ok(Val::Bool(string(args, 1).contains(&*string(args, 0))))),
    func("hasPrefix", SS, |_, args| Ok(Val::Bool(string(args, 1).starts_with(&*string(args, 0))))),
    func("hasSuffix", SS, |_, args| Ok(Val::Bool(string(args, 1).ends_with(&*string(args, 0))))),
    rest("quote", &[], Ty::Any, |heap, args| each(heap, args, print::quoted)),
    rest("squote", &[], Ty::Any, |heap, args| each(heap, args, |text| format!("'{text}'"))),
    rest("cat", &[], Ty::Any, |heap, args| each(heap, args, str::to_owned)),
    func("indent", IS, |heap, args| indent(heap, "", int(args, 0), &string(args, 1))),
    func("nindent", IS, |heap, args| indent(heap, "\n", int(args, 0), &string(args, 1))),
    func("replace", SSS, replace),
    func("plural", &[Ty::Str, Ty::Str, Ty::Int], |_, args| {
        Ok(args[usize::from(int(args, 2) != 1)].clone())
    }),
    func("toString", A, |heap, args| strval(heap, &args[0]).map(Val::Str)),
    rest("seq", &[], Ty::Int, seq),
    func("fail", S, |_, args| Err(string(args, 0).to_string())),
    func("base", S, |heap, args| heap.text(base(&string(args, 0)))),
    func("dir", S, |heap, args| {
        let text = string(args, 0);
        let end = text.rfind('/').map_or(0, |slash| slash + 1);
        heap.text(clean(&text[..end]))
    }),
    func("clean", S, |heap, args| heap.text(clean(&string(args, 0)))),
    func("ext", S, |heap, args| {
        let text = string(args, 0);
        let name = text.rsplit('/').next().unwrap_or("");
        heap.text(name.rfind('.').map_or("", |dot| &name[dot..]))
    }),
    func("isAbs", S, |_, args| Ok(Val::Bool(string(args, 0).starts_with('/')))),
];

fn range(text: &str, from: usize, to: usize) -> Result<&str, String> {
    if to > text.len() {
        let len = text.len();
        return Err(format!("runtime error: slice bounds out of range [:{to}] with length {len}"));
    }
    if from > to {
        return Err(format!("runtime error: slice bounds out of range [{from}:{to}]"));
    }
    text.get(from..to).ok_or_else(|| CUT.to_owned())
}

fn abbreviate(heap: &mut Heap, offset: i64, width: i64, text: &str) -> Answer {
    if width < 4 {
        return heap.text(text);
    }
    let out = abbreviated(text, usize::try_from(offset).unwrap_or(0), to_usize(width))?;
    heap.text(out)
}

/// A text of at most `width` bytes, from about `offset`, with dots where something is missing.
fn abbreviated(text: &str, offset: usize, width: usize) -> Result<String, String> {
    let len = text.len();
    if text.is_empty() || width < 4 {
        return Ok(String::new());
    }
    if len <= width {
        return Ok(text.to_owned());
    }
    let kept = width - 3;
    let mut offset = offset.min(len);
    if len - offset < kept {
        offset = len - kept;
    }
    if offset <= 4 {
        return Ok(format!("{}...", range(text, 0, kept)?));
    }
    if width < 7 {
        return Ok(String::new());
    }
    if offset + kept < len {
        let inner = abbreviated(range(text, offset, len)?, 0, kept)?;
        return Ok(format!("...{inner}"));
    }
    Ok(format!("...{}", range(text, len - kept, len)?))
}

fn abbrevboth(heap: &mut Heap, args: &[Val]) -> Answer {
    let (left, right) = (int(args, 0), int(args, 1));
    if right < 4 || (left > 0 && right < 7) {
        return Ok(args[2].clone());
    }
    abbreviate(heap, left, right, &string(args, 2))
}

fn trunc(heap: &mut Heap, args: &[Val]) -> Answer {
    let (count, text) = (int(args, 0), string(args, 1));
    let kept = to_usize(count.checked_abs().unwrap_or(i64::MAX));
    if kept >= text.len() {
        return Ok(Val::Str(text));
    }
    let cut = match count < 0 {
        true => range(&text, text.len() - kept, text.len())?,
        false => range(&text, 0, kept)?,
    };
    heap.text(cut)
}

fn substr(heap: &mut Heap, args: &[Val]) -> Answer {
    let (start, end, text) = (int(args, 0), int(args, 1), string(args, 2));
    if start < 0 {
        return match usize::try_from(end) {
            Ok(end) => heap.text(range(&text, 0, end)?),
            Err(_) => Err(format!("runtime error: slice bounds out of range [:{end}]")),
        };
    }
    let end = usize::try_from(end).ok().filter(|end| *end <= text.len()).unwrap_or(text.len());
    heap.text(range(&text, to_usize(start), end)?)
}

fn repeat(heap: &mut Heap, args: &[Val]) -> Answer {
    let text = string(args, 1);
    let count =
        usize::try_from(int(args, 0)).map_err(|_| "strings: negative Repeat count".to_owned())?;
    heap.afford(text.len().saturating_mul(count))?;
    heap.text(text.repeat(if text.is_empty() { 0 } else { count }))
}

/// Without white space; as sprig does it, byte by byte where there is any.
fn nospace(text: &str) -> String {
    let is_space = |byte: u8| matches!(byte, b'\t'..=b'\r' | b' ' | 0x85 | 0xa0);
    if !text.bytes().any(is_space) {
        return text.to_owned();
    }
    text.bytes().filter(|byte| !is_space(*byte)).map(char::from).collect()
}

fn wrap(heap: &mut Heap, width: i64, newline: &str, text: &str, breaks_words: bool) -> Answer {
    let newline = if newline.is_empty() { "\n" } else { newline };
    let width = usize::try_from(width).unwrap_or(1).max(1);
    heap.afford(text.len() + (text.len() / width + 1).saturating_mul(newline.len()))?;
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut at = 0;
    while bytes.len() - at > width {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let space = bytes[at..=at + width].iter().rposition(|byte| *byte == b' ');
        if let Some(space) = space {
            out.push_str(range(text, at, at + space)?);
            out.push_str(newline);
            at += space + 1;
        } else if breaks_words {
            out.push_str(range(text, at, at + width)?);
            out.push_str(newline);
            at += width;
        } else if let Some(space) = bytes[at + width..].iter().position(|byte| *byte == b' ') {
            out.push_str(range(text, at, at + width + space)?);
            out.push_str(newline);
            at += width + space + 1;
        } else {
            out.push_str(range(text, at, text.len())?);
            at = text.len();
        }
    }
    out.push_str(range(text, at, text.len())?);
    heap.text(out)
}

/// The values that are not nil, each made a string, with spaces between.
fn each(heap: &mut Heap, args: &[Val], make: fn(&str) -> String) -> Answer {
    let mut parts = Vec::with_capacity(args.len());
    for value in args.iter().filter(|value| !matches!(value, Val::Nil)) {
        let text = strval(heap, value)?;
        heap.afford(text.len())?;
        parts.push(make(&text));
    }
    heap.text(parts.join(" "))
}

fn indent(heap: &mut Heap, before: &str, spaces: i64, text: &str) -> Answer {
    let spaces =
        usize::try_from(spaces).map_err(|_| "strings: negative Repeat count".to_owned())?;
    let lines = text.matches('\n').count() + 1;
    heap.afford(text.len().saturating_add(lines.saturating_mul(spaces)))?;
    let pad = " ".repeat(spaces);
    heap.text(format!("{before}{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

fn replace(heap: &mut Heap, args: &[Val]) -> Answer {
    let (old, new, text) = (string(args, 0), string(args, 1), string(args, 2));
    let count = if old.is_empty() { text.len() + 1 } else { text.len() / old.len() };
    heap.afford(text.len().saturating_add(count.saturating_mul(new.len())))?;
    heap.text(text.replace(&*old, &new))
}

fn seq(heap: &mut Heap, args: &[Val]) -> Answer {
    let numbers: Vec<i64> = (0..args.len()).map(|at| int(args, at)).collect();
    let (start, step, end) = match numbers.as_slice() {
        [end] => (1, if *end < 1 { -1 } else { 1 }, *end),
        [start, end] => (*start, if end < start { -1 } else { 1 }, *end),
        [start, step, end] if end < start && *step > 0 => {
            let _ = (start, step, end);
            return heap.text("");
        }
        [start, step, end] => (*start, *step, *end),
        _ => return heap.text(""),
    };
    let beyond = |at: i64| if end < start { at < end } else { at > end };
    if step == 0 || (end >= start && step < 0) {
        return heap.text("");
    }
    let mut out = String::new();
    let mut at = start;
    while !beyond(at) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&at.to_string());
        heap.spend(4)?;
        heap.afford(0)?;
        if out.len() > crate::heap::MAX_STRING {
            return Err("the template makes a string that is too long".to_owned());
        }
        let Some(next) = at.checked_add(step) else { break };
        at = next;
    }
    heap.text(out)
}

fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let path = path.trim_end_matches('/');
    match path.rsplit('/').next() {
        None | Some("") => "/",
        Some(name) => name,
    }
}

/// The shortest path that names the same, by its text.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn to_usize(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}
