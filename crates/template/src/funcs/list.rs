//! Sprig's functions on lists, and on what is empty.

use std::rc::Rc;

use super::{A, AA, Answer, Func, NIL, SS, Ty, func, int, rest, string, strval};
use crate::heap::{Heap, Of, Val};

const SA: &[Ty] = &[Ty::Str, Ty::Any];
const IA: &[Ty] = &[Ty::Int, Ty::Any];

pub(super) static TABLE: &[Func] = &[
    rest("list", &[], Ty::Any, |heap, args| heap.list(Of::Anything, args.to_vec())),
    rest("tuple", &[], Ty::Any, |heap, args| heap.list(Of::Anything, args.to_vec())),
    func("append", AA, push),
    func("push", AA, push),
    func("mustAppend", AA, push),
    func("mustPush", AA, push),
    func("prepend", AA, prepend),
    func("mustPrepend", AA, prepend),
    func("first", A, first),
    func("mustFirst", A, first),
    func("last", A, last),
    func("mustLast", A, last),
    func("rest", A, tail),
    func("mustRest", A, tail),
    func("initial", A, initial),
    func("mustInitial", A, initial),
    func("reverse", A, reverse),
    func("mustReverse", A, reverse),
    func("uniq", A, uniq),
    func("mustUniq", A, uniq),
    func("compact", A, compact),
    func("mustCompact", A, compact),
    rest("without", A, Ty::Any, without),
    rest("mustWithout", A, Ty::Any, without),
    func("has", AA, has),
    func("mustHas", AA, has),
    rest("slice", A, Ty::Any, slice),
    rest("mustSlice", A, Ty::Any, slice),
    rest("concat", &[], Ty::Any, concat),
    func("chunk", IA, chunk),
    func("mustChunk", IA, chunk),
    func("join", SA, |heap, args| {
        let parts = texts(heap, &args[1])?;
        let separator = string(args, 0);
        let len: usize = parts.iter().map(|part| part.len() + separator.len()).sum();
        heap.afford(len)?;
        heap.text(parts.join(&*separator))
    }),
    func("sortAlpha", A, |heap, args| {
        let mut parts = texts(heap, &args[0])?;
        if !matches!(args[0], Val::List(_)) {
            parts = vec![strval(heap, &args[0])?];
        }
        parts.sort();
        heap.strings(parts)
    }),
    func("toStrings", A, |heap, args| {
        let parts = texts(heap, &args[0])?;
        heap.strings(parts)
    }),
    func("splitList", SS, |heap, args| {
        let (separator, text) = (string(args, 0), string(args, 1));
        heap.spend(text.len())?;
        if separator.is_empty() {
            return heap.strings(text.chars().map(String::from).collect::<Vec<_>>());
        }
        heap.strings(text.split(&*separator).collect::<Vec<_>>())
    }),
    rest("default", A, Ty::Any, |heap, args| {
        let given = args.get(1).filter(|given| !empty(heap, given));
        Ok(given.unwrap_or(&args[0]).clone())
    }),
    func("empty", A, |heap, args| Ok(Val::Bool(empty(heap, &args[0])))),
    rest("coalesce", &[], Ty::Any, |heap, args| {
        Ok(args.iter().find(|value| !empty(heap, value)).cloned().unwrap_or(Val::Nil))
    }),
    rest("all", &[], Ty::Any, |heap, args| {
        Ok(Val::Bool(args.iter().all(|value| !empty(heap, value))))
    }),
    rest("any", &[], Ty::Any, |heap, args| {
        Ok(Val::Bool(args.iter().any(|value| !empty(heap, value))))
    }),
    func("ternary", &[Ty::Any, Ty::Any, Ty::Bool], |_, args| {
        Ok(args[usize::from(!matches!(args[2], Val::Bool(true)))].clone())
    }),
];

pub(super) fn empty(heap: &Heap, value: &Val) -> bool {
    !heap.truth(value)
}

/// The elements of a list; `verb` is for the error.
fn items(heap: &Heap, value: &Val, verb: &str) -> Result<Rc<[Val]>, String> {
    match value {
        Val::List(at) => Ok(heap.list_at(*at).items.clone()),
        Val::Nil => Err(NIL.to_owned()),
        other => Err(format!("Cannot {verb} type {}", heap.kind_name(other))),
    }
}

/// The strings that a value is: of a list its elements but nil, of anything else itself.
fn texts(heap: &mut Heap, value: &Val) -> Result<Vec<Rc<str>>, String> {
    match value {
        Val::List(at) => {
            let items = heap.list_at(*at).items.clone();
            let items = items.iter().filter(|item| !matches!(item, Val::Nil));
            items.map(|item| strval(heap, item)).collect()
        }
        Val::Nil => Ok(Vec::new()),
        other => Ok(vec![strval(heap, other)?]),
    }
}

fn push(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut items = items(heap, &args[0], "push on")?.to_vec();
    items.push(args[1].clone());
    heap.list(Of::Anything, items)
}

fn prepend(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut items = items(heap, &args[0], "prepend on")?.to_vec();
    items.insert(0, args[1].clone());
    heap.list(Of::Anything, items)
}

fn first(heap: &mut Heap, args: &[Val]) -> Answer {
    Ok(items(heap, &args[0], "find first on")?.first().cloned().unwrap_or(Val::Nil))
}

fn last(heap: &mut Heap, args: &[Val]) -> Answer {
    Ok(items(heap, &args[0], "find last on")?.last().cloned().unwrap_or(Val::Nil))
}

fn tail(heap: &mut Heap, args: &[Val]) -> Answer {
    let items = items(heap, &args[0], "find rest on")?;
    heap.list(Of::Anything, items.iter().skip(1).cloned().collect())
}

fn initial(heap: &mut Heap, args: &[Val]) -> Answer {
    let items = items(heap, &args[0], "find initial on")?;
    heap.list(Of::Anything, items[..items.len().saturating_sub(1)].to_vec())
}

fn reverse(heap: &mut Heap, args: &[Val]) -> Answer {
    let items = items(heap, &args[0], "find reverse on")?;
    heap.list(Of::Anything, items.iter().rev().cloned().collect())
}

fn contains(heap: &mut Heap, list: &[Val], value: &Val) -> Result<bool, String> {
    for item in list {
        if heap.equal(value, item, 0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut kept = Vec::new();
    for item in items(heap, &args[0], "find uniq on")?.iter() {
        if !contains(heap, &kept, item)? {
            kept.push(item.clone());
        }
    }
    heap.list(Of::Anything, kept)
}

fn compact(heap: &mut Heap, args: &[Val]) -> Answer {
    let items = items(heap, &args[0], "compact on")?;
    let kept = items.iter().filter(|item| !empty(heap, item)).cloned().collect();
    heap.list(Of::Anything, kept)
}

fn without(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut kept = Vec::new();
    for item in items(heap, &args[0], "find without on")?.iter() {
        if !contains(heap, &args[1..], item)? {
            kept.push(item.clone());
        }
    }
    heap.list(Of::Anything, kept)
}

fn has(heap: &mut Heap, args: &[Val]) -> Answer {
    if matches!(args[1], Val::Nil) {
        return Ok(Val::Bool(false));
    }
    let items = items(heap, &args[1], "find has on")?;
    contains(heap, &items, &args[0]).map(Val::Bool)
}

fn slice(heap: &mut Heap, args: &[Val]) -> Answer {
    let (of, items) = match &args[0] {
        Val::List(at) => (heap.list_at(*at).of, heap.list_at(*at).items.clone()),
        Val::Nil => return Err(NIL.to_owned()),
        other => {
            let kind = heap.kind_name(other);
            return Err(format!("list should be type of slice or array but {kind}"));
        }
    };
    if items.is_empty() {
        return Ok(Val::Nil);
    }
    let start = args.get(1).map_or(0, whole);
    let end = args.get(2).map_or(i64::try_from(items.len()).unwrap_or(i64::MAX), whole);
    let bounds = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match bounds.and_then(|(start, end)| items.get(start..end)) {
        Some(part) => heap.list(of, part.to_vec()),
        None => Err("reflect.Value.Slice: slice index out of bounds".to_owned()),
    }
}

/// A value as sprig makes it a number: what is none is zero.
fn whole(value: &Val) -> i64 {
    match value {
        Val::Int(value) => *value,
        Val::Uint(value) => i64::try_from(*value).unwrap_or(i64::MAX),
        Val::Byte(value) => i64::from(*value),
        #[expect(clippy::cast_possible_truncation, reason = "what Go does")]
        Val::Float(value) => *value as i64,
        Val::Bool(value) => i64::from(*value),
        Val::Str(text) => {
            let trimmed = text.trim_start_matches('0');
            if trimmed.is_empty() { 0 } else { trimmed.parse().unwrap_or(0) }
        }
        _ => 0,
    }
}

fn concat(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut all = Vec::new();
    for list in args {
        match list {
            Val::List(at) => all.extend(heap.list_at(*at).items.iter().cloned()),
            Val::Nil => return Err(NIL.to_owned()),
            other => {
                let kind = heap.kind_name(other);
                return Err(format!("Cannot concat type {kind} as list"));
            }
        }
        heap.spend(all.len())?;
    }
    heap.list(Of::Anything, all)
}

fn chunk(heap: &mut Heap, args: &[Val]) -> Answer {
    let items = items(heap, &args[1], "chunk")?;
    let Some(size) = usize::try_from(int(args, 0)).ok().filter(|size| *size > 0) else {
        return Err("runtime error: makeslice: len out of range".to_owned());
    };
    let mut chunks = Vec::new();
    for chunk in items.chunks(size) {
        chunks.push(heap.list(Of::Anything, chunk.to_vec())?);
    }
    heap.list(Of::Lists, chunks)
}
