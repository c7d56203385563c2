//! What a template works with while it runs: values, and where their containers live.
//!
//! Lists, maps and structs live in one arena, so that however they are nested, or made to hold
//! themselves, nothing recurses when they are dropped; and every container that is made is paid
//! for from one budget.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use regex::Regex;

use crate::Value;

/// What an execution may spend: a unit is about a byte made or a node visited.
const BUDGET: usize = 1_000_000;
/// The longest string that a function may make.
pub(crate) const MAX_STRING: usize = 64 * 1024;
/// How deep values are looked into.
pub(crate) const MAX_DEPTH: usize = 32;
/// What a regular expression costs.
const REGEX_COST: usize = 20_000;

/// A value; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Byte(u8),
    Float(f64),
    Str(Rc<str>),
    List(usize),
    Map(usize),
    Record(usize),
}

/// What the elements of a container are, to Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Anything,
    Strings,
    Lists,
}

#[derive(Debug)]
pub(crate) struct List {
    pub(crate) of: Of,
    pub(crate) items: Rc<[Val]>,
}

#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) of: Of,
    pub(crate) items: BTreeMap<Rc<str>, Val>,
}

#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) name: String,
    pub(crate) fields: Vec<(String, Val)>,
    pub(crate) text: Option<Rc<str>>,
}

/// All that an execution has.
pub(crate) struct Heap {
    lists: Vec<List>,
    maps: Vec<Map>,
    records: Vec<Fields>,
    regexes: HashMap<String, Regex>,
    left: usize,
}

impl Heap {
    pub(crate) fn new() -> Self {
        Self {
            lists: Vec::new(),
            maps: Vec::new(),
            records: Vec::new(),
            regexes: HashMap::new(),
            left: BUDGET,
        }
    }

    /// Pays for work.
    pub(crate) fn spend(&mut self, units: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(units).ok_or("the template does too much work")?;
        Ok(())
    }

    /// What a template is given, as a value.
    pub(crate) fn load(&mut self, value: &Value) -> Val {
        match value {
            Value::Nil => Val::Nil,
            Value::Bool(value) => Val::Bool(*value),
            Value::Int(value) => Val::Int(*value),
            Value::Uint(value) => Val::Uint(*value),
            Value::Float(value) => Val::Float(*value),
            Value::String(value) => Val::Str(value.as_str().into()),
            Value::Strings(items) => {
                let items = items.iter().map(|item| Val::Str(item.as_str().into())).collect();
                self.push_list(Of::Strings, items)
            }
            Value::List(items) => {
                let items = items.iter().map(|item| self.load(item)).collect();
                self.push_list(Of::Anything, items)
            }
            Value::StringMap(items) => {
                let value = |value: &String| Val::Str(value.as_str().into());
                let items = items.iter().map(|(k, v)| (k.as_str().into(), value(v))).collect();
                self.push_map(Of::Strings, items)
            }
            Value::Map(items) => {
                let items = items.iter().map(|(k, v)| (k.as_str().into(), self.load(v))).collect();
                self.push_map(Of::Anything, items)
            }
            Value::Record(record) => {
                let fields = record.fields.iter().map(|(k, v)| (k.clone(), self.load(v))).collect();
                let text = record.text.as_deref().map(Rc::from);
                self.records.push(Fields { name: record.name.clone(), fields, text });
                Val::Record(self.records.len() - 1)
            }
        }
    }

    pub(crate) fn list(&mut self, of: Of, items: Vec<Val>) -> Result<Val, String> {
        self.spend(items.len() + 1)?;
        Ok(self.push_list(of, items))
    }

    pub(crate) fn strings<S: Into<Rc<str>>>(
        &mut self,
        items: impl IntoIterator<Item = S>,
    ) -> Result<Val, String> {
        let items: Vec<_> = items.into_iter().map(|item| Val::Str(item.into())).collect();
        let bytes: usize =
            items.iter().map(|item| if let Val::Str(text) = item { text.len() } else { 0 }).sum();
        self.spend(bytes)?;
        self.list(Of::Strings, items)
    }

    pub(crate) fn map(&mut self, items: BTreeMap<Rc<str>, Val>) -> Result<Val, String> {
        self.spend(items.len() + 1)?;
        Ok(self.push_map(Of::Anything, items))
    }

    fn push_list(&mut self, of: Of, items: Vec<Val>) -> Val {
        self.lists.push(List { of, items: items.into() });
        Val::List(self.lists.len() - 1)
    }

    fn push_map(&mut self, of: Of, items: BTreeMap<Rc<str>, Val>) -> Val {
        self.maps.push(Map { of, items });
        Val::Map(self.maps.len() - 1)
    }

    pub(crate) fn list_at(&self, at: usize) -> &List {
        &self.lists[at]
    }

    pub(crate) fn map_at(&self, at: usize) -> &Map {
        &self.maps[at]
    }

    pub(crate) fn map_at_mut(&mut self, at: usize) -> &mut Map {
        &mut self.maps[at]
    }

    pub(crate) fn record_at(&self, at: usize) -> &Fields {
        &self.records[at]
    }

    /// A string, within the limit.
    pub(crate) fn text(&mut self, text: impl AsRef<str>) -> Result<Val, String> {
        let text = text.as_ref();
        self.afford(text.len())?;
        Ok(Val::Str(text.into()))
    }

    /// Pays for a string before it is made.
    pub(crate) fn afford(&mut self, len: usize) -> Result<(), String> {
        if len > MAX_STRING {
            return Err("the template makes a string that is too long".to_owned());
        }
        self.spend(len)
    }

    /// A regular expression, made once.
    pub(crate) fn regex(
        &mut self,
        pattern: &str,
        make: impl FnOnce(&str) -> Result<Regex, String>,
    ) -> Result<Regex, String> {
        if let Some(known) = self.regexes.get(pattern) {
            return Ok(known.clone());
        }
        self.spend(REGEX_COST)?;
        let regex = make(pattern)?;
        self.regexes.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    }

    /// Go's name of a value's type.
    pub(crate) fn type_name(&self, value: &Val) -> String {
        match value {
            Val::Nil => "<nil>",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint64",
            Val::Byte(_) => "uint8",
            Val::Float(_) => "float64",
            Val::Str(_) => "string",
            Val::List(at) => match self.lists[*at].of {
                Of::Anything => "[]interface {}",
                Of::Strings => "[]string",
                Of::Lists => "[][]interface {}",
            },
            Val::Map(at) => match self.maps[*at].of {
                Of::Strings => "map[string]string",
                _ => "map[string]interface {}",
            },
            Val::Record(at) => return self.records[*at].name.clone(),
        }
        .to_owned()
    }

    /// Go's name of a value's kind.
    pub(crate) fn kind_name(&self, value: &Val) -> String {
        match value {
            Val::List(_) => "slice".to_owned(),
            Val::Map(_) => "map".to_owned(),
            Val::Record(_) => "struct".to_owned(),
            Val::Nil => "invalid".to_owned(),
            other => self.type_name(other),
        }
    }

    /// Whether `if` takes a value for true.
    pub(crate) fn truth(&self, value: &Val) -> bool {
        match value {
            Val::Nil => false,
            Val::Bool(value) => *value,
            Val::Int(value) => *value != 0,
            Val::Uint(value) => *value != 0,
            Val::Byte(value) => *value != 0,
            Val::Float(value) => *value != 0.0,
            Val::Str(text) => !text.is_empty(),
            Val::List(at) => !self.lists[*at].items.is_empty(),
            Val::Map(at) => !self.maps[*at].items.is_empty(),
            Val::Record(_) => true,
        }
    }

    /// Whether two values are equal in all their parts and types.
    pub(crate) fn equal(&mut self, left: &Val, right: &Val, depth: usize) -> Result<bool, String> {
        if depth > MAX_DEPTH {
            return Err("a value is nested too deeply".to_owned());
        }
        self.spend(1)?;
        Ok(match (left, right) {
            (Val::Nil, Val::Nil) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Int(a), Val::Int(b)) => a == b,
            (Val::Uint(a), Val::Uint(b)) => a == b,
            (Val::Byte(a), Val::Byte(b)) => a == b,
            #[expect(clippy::float_cmp, reason = "what Go does")]
            (Val::Float(a), Val::Float(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            (Val::Record(a), Val::Record(b)) => a == b,
            (Val::List(a), Val::List(b)) => {
                let (a, b) = (&self.lists[*a], &self.lists[*b]);
                if a.of != b.of || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                let (a, b) = (a.items.clone(), b.items.clone());
                for (a, b) in a.iter().zip(b.iter()) {
                    if !self.equal(a, b, depth + 1)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Val::Map(a), Val::Map(b)) => {
                let (a, b) = (&self.maps[*a], &self.maps[*b]);
                if a.of != b.of || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                let pairs: Vec<_> = a
                    .items
                    .iter()
                    .map(|(key, value)| (value.clone(), b.items.get(key).cloned()))
                    .collect();
                for (a, b) in pairs {
                    match b {
                        Some(b) if self.equal(&a, &b, depth + 1)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            _ => false,
        })
    }
}
