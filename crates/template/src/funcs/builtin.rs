//! Go's own functions.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::{A, AA, Answer, Func, S, Ty, func, length, rest, string};
use crate::heap::{Heap, Of, Val};
use crate::print;

pub(super) static TABLE: &[Func] = &[
    // What these two do is the executor's: they need not look at all their arguments.
    rest("and", A, Ty::Any, |_, args| Ok(args[0].clone())),
    rest("or", A, Ty::Any, |_, args| Ok(args[0].clone())),
    func("not", A, |heap, args| Ok(Val::Bool(!heap.truth(&args[0])))),
    rest("call", A, Ty::Any, call),
    rest("eq", A, Ty::Any, |heap, args| eq(heap, args).map(Val::Bool)),
    func("ne", AA, |heap, args| eq(heap, args).map(|equal| Val::Bool(!equal))),
    func("lt", AA, |heap, args| lt(heap, args).map(Val::Bool)),
    func("le", AA, |heap, args| le(heap, args).map(Val::Bool)),
    func("gt", AA, |heap, args| le(heap, args).map(|le| Val::Bool(!le))),
    func("ge", AA, |heap, args| lt(heap, args).map(|lt| Val::Bool(!lt))),
    func("len", A, len),
    rest("index", A, Ty::Any, index),
    rest("print", &[], Ty::Any, |heap, args| {
        let text = print::sprint(heap, args)?;
        heap.text(text)
    }),
    rest("println", &[], Ty::Any, println),
    rest("printf", S, Ty::Any, |heap, args| {
        let text = print::sprintf(heap, &string(args, 0), &args[1..])?;
        heap.text(text)
    }),
    rest("html", &[], Ty::Any, |heap, args| {
        let text = joined(heap, args)?;
        heap.text(html(&text))
    }),
    rest("js", &[], Ty::Any, |heap, args| {
        let text = joined(heap, args)?;
        heap.text(js(&text))
    }),
    rest("urlquery", &[], Ty::Any, |heap, args| {
        let text = joined(heap, args)?;
        heap.text(urlquery(&text))
    }),
];

fn call(heap: &mut Heap, args: &[Val]) -> Answer {
    match &args[0] {
        Val::Nil => Err("call of nil".to_owned()),
        value => Err(format!("non-function of type {}", heap.type_name(value))),
    }
}

fn println(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut out = String::new();
    for (position, value) in args.iter().enumerate() {
        if position > 0 {
            out.push(' ');
        }
        out.push_str(&print::plain(heap, value)?);
        heap.afford(out.len())?;
    }
    out.push('\n');
    heap.text(out)
}

/// The kinds that can be compared.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Basic {
    Bool,
    Int,
    Uint,
    Float,
    Str,
}

fn basic(value: &Val) -> Option<Basic> {
    Some(match value {
        Val::Bool(_) => Basic::Bool,
        Val::Int(_) => Basic::Int,
        Val::Uint(_) | Val::Byte(_) => Basic::Uint,
        Val::Float(_) => Basic::Float,
        Val::Str(_) => Basic::Str,
        _ => return None,
    })
}

fn whole(value: &Val) -> Option<i128> {
    match value {
        Val::Int(value) => Some(i128::from(*value)),
        Val::Uint(value) => Some(i128::from(*value)),
        Val::Byte(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn incompatible(heap: &Heap, left: &Val, right: &Val) -> String {
    let (left, right) = (heap.type_name(left), heap.type_name(right));
    format!("incompatible types for comparison: {left} and {right}")
}

fn eq(heap: &mut Heap, args: &[Val]) -> Result<bool, String> {
    let (first, others) = args.split_first().ok_or("missing argument for comparison")?;
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        let equal = match (first, other) {
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            (Val::Float(a), Val::Float(b)) => a == b,
            (a, b) if whole(a).is_some() && whole(b).is_some() => whole(a) == whole(b),
            (Val::Nil, Val::Nil) => true,
            (a, b) if basic(a) != basic(b) => {
                if matches!(a, Val::Nil) || matches!(b, Val::Nil) {
                    false
                } else {
                    return Err(incompatible(heap, a, b));
                }
            }
            (Val::Nil, _) | (_, Val::Nil) => false,
            (Val::Record(a), Val::Record(b)) => a == b,
            (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => {
                return Err(uncomparable(heap, a, b, true)?);
            }
            (a, b) => return Err(uncomparable(heap, a, b, false)?),
        };
        if equal {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uncomparable(heap: &mut Heap, a: &Val, b: &Val, both: bool) -> Result<String, String> {
    let (left, right) = (print::plain(heap, a)?, print::plain(heap, b)?);
    let (left_type, right_type) = (heap.type_name(a), heap.type_name(b));
    Ok(if both {
        format!("non-comparable types {left}: {left_type}, {right_type}: {right}")
    } else {
        format!("non-comparable type {right}: {right_type}")
    })
}

fn lt(heap: &mut Heap, args: &[Val]) -> Result<bool, String> {
    let (left, right) = (&args[0], &args[1]);
    if basic(left).is_none() || basic(right).is_none() {
        return Err(BAD_TYPE.to_owned());
    }
    let order = match (left, right) {
        (Val::Str(a), Val::Str(b)) => a.cmp(b),
        (Val::Float(a), Val::Float(b)) => a.partial_cmp(b).unwrap_or(Ordering::Greater),
        (Val::Bool(_), Val::Bool(_)) => return Err(BAD_TYPE.to_owned()),
        (a, b) => match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => return Err(incompatible(heap, left, right)),
        },
    };
    Ok(order == Ordering::Less)
}

fn le(heap: &mut Heap, args: &[Val]) -> Result<bool, String> {
    Ok(lt(heap, args)? || eq(heap, args)?)
}

fn len(heap: &mut Heap, args: &[Val]) -> Answer {
    match &args[0] {
        Val::Str(text) => Ok(length(text.len())),
        Val::List(at) => Ok(length(heap.list_at(*at).items.len())),
        Val::Map(at) => Ok(length(heap.map_at(*at).items.len())),
        Val::Nil => Err("len of nil pointer".to_owned()),
        other => Err(format!("len of type {}", heap.type_name(other))),
    }
}

fn index(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut item = args[0].clone();
    if matches!(item, Val::Nil) {
        return Err("index of untyped nil".to_owned());
    }
    for at in &args[1..] {
        item = match &item {
            Val::List(list) => {
                let items = heap.list_at(*list).items.clone();
                items[position(heap, at, items.len())?].clone()
            }
            Val::Str(text) => {
                let text = text.clone();
                Val::Byte(text.as_bytes()[position(heap, at, text.len())?])
            }
            Val::Map(map) => {
                let map = heap.map_at(*map);
                match at {
                    Val::Str(key) => match (map.items.get(key), map.of) {
                        (Some(value), _) => value.clone(),
                        (None, Of::Strings) => Val::Str("".into()),
                        (None, _) => Val::Nil,
                    },
                    Val::Nil => return Err("value is nil; should be of type string".to_owned()),
                    other => {
                        let got = heap.type_name(other);
                        return Err(format!("value has type {got}; should be string"));
                    }
                }
            }
            Val::Nil => return Err("index of nil pointer".to_owned()),
            other => {
                let got = heap.type_name(other);
                return Err(format!("can't index item of type {got}"));
            }
        };
    }
    Ok(item)
}

fn position(heap: &Heap, at: &Val, len: usize) -> Result<usize, String> {
    let Some(whole) = whole(at) else {
        return Err(match at {
            Val::Nil => "cannot index slice/array with nil".to_owned(),
            at => format!("cannot index slice/array with type {}", heap.type_name(at)),
        });
    };
    match usize::try_from(whole) {
        Ok(at) if at < len => Ok(at),
        Ok(at) if at == len => Err("reflect: slice index out of range".to_owned()),
        _ => Err(format!("index out of range: {whole}")),
    }
}

/// The text of what an escaping function is given.
fn joined(heap: &mut Heap, args: &[Val]) -> Result<String, String> {
    if let [Val::Str(text)] = args {
        return Ok(text.to_string());
    }
    let shown: Vec<Val> =
        args.iter()
            .map(|value| {
                if matches!(value, Val::Nil) {
                    Val::Str("<no value>".into())
                } else {
                    value.clone()
                }
            })
            .collect();
    print::sprint(heap, &shown)
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..' ' => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c if !c.is_ascii() && (c.is_control() || c.is_whitespace()) => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

const BAD_TYPE: &str = "invalid type for comparison";
