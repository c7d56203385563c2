//! The functions: Go's own, and those of sprig's that SPIRE allows.

mod builtin;
mod dict;
mod encode;
mod list;
mod pattern;
mod text;
mod url;
mod words;

use std::rc::Rc;

use crate::heap::{Heap, Val};

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Any,
    Str,
    Int,
    Bool,
    Dict,
}

impl Ty {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "interface {}",
            Self::Str => "string",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Dict => "map[string]interface {}",
        }
    }
}

/// A function; it is called with as many values, of such types, as it says.
pub(crate) struct Func {
    name: &'static str,
    pub(crate) params: &'static [Ty],
    /// What more it takes.
    pub(crate) rest: Option<Ty>,
    pub(crate) run: Run,
}

type Run = fn(&mut Heap, &[Val]) -> Answer;
type Answer = Result<Val, String>;

/// The function of this name.
pub(crate) fn find(name: &str) -> Option<&'static Func> {
    TABLES.iter().flat_map(|table| table.iter()).find(|func| func.name == name)
}

static TABLES: &[&[Func]] = &[
    text::TABLE,
    words::TABLE,
    list::TABLE,
    dict::TABLE,
    pattern::TABLE,
    encode::TABLE,
    url::TABLE,
    builtin::TABLE,
];

const fn func(name: &'static str, params: &'static [Ty], run: Run) -> Func {
    Func { name, params, rest: None, run }
}

const fn rest(name: &'static str, params: &'static [Ty], rest: Ty, run: Run) -> Func {
    Func { name, params, rest: Some(rest), run }
}

const S: &[Ty] = &[Ty::Str];
const SS: &[Ty] = &[Ty::Str, Ty::Str];
const SSS: &[Ty] = &[Ty::Str, Ty::Str, Ty::Str];
const IS: &[Ty] = &[Ty::Int, Ty::Str];
const A: &[Ty] = &[Ty::Any];
const AA: &[Ty] = &[Ty::Any, Ty::Any];

/// The string that an argument is; the types were checked before the call.
fn string(args: &[Val], at: usize) -> Rc<str> {
    match args.get(at) {
        Some(Val::Str(text)) => text.clone(),
        _ => "".into(),
    }
}

fn int(args: &[Val], at: usize) -> i64 {
    match args.get(at) {
        Some(Val::Int(value)) => *value,
        _ => 0,
    }
}

/// A value as sprig makes it a string.
fn strval(heap: &mut Heap, value: &Val) -> Result<Rc<str>, String> {
    match value {
        Val::Str(text) => Ok(text.clone()),
        value => Ok(crate::print::plain(heap, value)?.into()),
    }
}

fn length(len: usize) -> Val {
    Val::Int(i64::try_from(len).unwrap_or(i64::MAX))
}

/// What Go says where a function looks into nothing.
const NIL: &str = "runtime error: invalid memory address or nil pointer dereference";
