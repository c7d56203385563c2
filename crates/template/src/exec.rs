//! A template's execution.

use std::rc::Rc;

use crate::Value;
use crate::ast::{Arg, ArgKind, Branch, Command, Forest, Node, Number, Pipe};
use crate::funcs::{self, Func, Ty};
use crate::heap::{Heap, MAX_STRING, Of, Val};
use crate::parse::ROOT;
use crate::print;

/// How deep templates, control structures and parentheses may call one another.
const MAX_CALLS: usize = 150;

/// What the template writes for `data`; an error is Go's text.
pub(crate) fn execute(forest: &Forest, source: &str, data: &Value) -> Result<String, String> {
    let mut heap = Heap::new();
    let dot = heap.load(data);
    let mut run = Run {
        forest,
        source,
        heap,
        out: String::new(),
        variables: vec![("$".to_owned(), dot.clone())],
        name: ROOT.to_owned(),
        at: None,
        calls: 0,
    };
    let nodes = forest.trees.get(ROOT).map_or(&[][..], Vec::as_slice);
    run.list(&dot, nodes)?;
    Ok(run.out)
}

/// How a list of nodes was left.
enum Left {
    AtEnd,
    Break,
    Continue,
}

struct Run<'a> {
    forest: &'a Forest,
    source: &'a str,
    heap: Heap,
    out: String,
    variables: Vec<(String, Val)>,
    /// The template being executed.
    name: String,
    at: Option<(usize, Spot<'a>)>,
    calls: usize,
}

/// What errors say that they are at.
#[derive(Clone, Copy)]
enum Spot<'a> {
    Arg(&'a Arg),
    Command(&'a Command),
    Pipe(&'a Pipe),
    Action(&'a Pipe),
    Template(&'a str, Option<&'a Pipe>),
}

type Done<T> = Result<T, String>;

impl<'a> Run<'a> {
    fn list(&mut self, dot: &Val, nodes: &'a [Node]) -> Done<Left> {
        self.enter()?;
        for node in nodes {
            self.heap.spend(1).or_else(|what| self.fail(&what))?;
            match node {
                Node::Text(text) => self.write(text)?,
                Node::Action(pipe) => {
                    let value = self.pipe(dot, pipe)?;
                    if pipe.declares.is_empty() {
                        self.at = Some((pipe.at, Spot::Action(pipe)));
                        let text = print::shown(&mut self.heap, &value);
                        let text = text.or_else(|what| self.fail(&what))?;
                        self.write(&text)?;
                    }
                }
                Node::Break => {
                    self.calls -= 1;
                    return Ok(Left::Break);
                }
                Node::Continue => {
                    self.calls -= 1;
                    return Ok(Left::Continue);
                }
                Node::If(branch) | Node::With(branch) => {
                    let left = self.branch(dot, branch, matches!(node, Node::With(_)))?;
                    if !matches!(left, Left::AtEnd) {
                        self.calls -= 1;
                        return Ok(left);
                    }
                }
                Node::Range(branch) => {
                    let left = self.range(dot, branch)?;
                    if !matches!(left, Left::AtEnd) {
                        self.calls -= 1;
                        return Ok(left);
                    }
                }
                Node::Template { at, name, pipe } => {
                    self.template(dot, *at, name, pipe.as_ref())?;
                }
            }
        }
        self.calls -= 1;
        Ok(Left::AtEnd)
    }

    fn enter(&mut self) -> Done<()> {
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return self.fail(&format!("exceeded maximum template depth ({MAX_CALLS})"));
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Done<()> {
        self.out.push_str(text);
        if self.out.len() > MAX_STRING {
            return self.fail("the template writes too much");
        }
        Ok(())
    }

    fn branch(&mut self, dot: &Val, branch: &'a Branch, sets_dot: bool) -> Done<Left> {
        let mark = self.variables.len();
        let value = self.pipe(dot, &branch.pipe)?;
        let left = match (self.heap.truth(&value), &branch.otherwise) {
            (true, _) if sets_dot => self.list(&value, &branch.then)?,
            (true, _) => self.list(dot, &branch.then)?,
            (false, Some(otherwise)) => self.list(dot, otherwise)?,
            (false, None) => Left::AtEnd,
        };
        self.variables.truncate(mark);
        Ok(left)
    }

    fn range(&mut self, dot: &Val, branch: &'a Branch) -> Done<Left> {
        let before = self.variables.len();
        let value = self.pipe(dot, &branch.pipe)?;
        let mark = self.variables.len();
        let declares = branch.pipe.declares.len();
        let items: Vec<(Val, Val)> = match &value {
            Val::Nil => Vec::new(),
            Val::List(at) => {
                let items = self.heap.list_at(*at).items.clone();
                let index = |at: usize| Val::Int(i64::try_from(at).unwrap_or(i64::MAX));
                items.iter().cloned().enumerate().map(|(at, item)| (index(at), item)).collect()
            }
            Val::Map(at) => {
                let items = &self.heap.map_at(*at).items;
                items.iter().map(|(key, item)| (Val::Str(key.clone()), item.clone())).collect()
            }
            Val::Int(_) | Val::Uint(_) | Val::Byte(_) => {
                if declares > 1 {
                    let shown = print::plain(&mut self.heap, &value)?;
                    let what = format!("can't use {shown} to iterate over more than one variable");
                    return self.fail(&what);
                }
                self.count(&value)?
            }
            other => {
                let shown = print::plain(&mut self.heap, other)?;
                return self.fail(&format!("range can't iterate over {shown}"));
            }
        };
        self.heap.spend(items.len()).or_else(|what| self.fail(&what))?;
        let mut left = Left::AtEnd;
        if let (true, Some(otherwise)) = (items.is_empty(), &branch.otherwise) {
            left = self.list(dot, otherwise)?;
        }
        for (index, item) in items {
            self.declare(&branch.pipe, mark, &index, &item)?;
            let how = self.list(&item, &branch.then)?;
            self.variables.truncate(mark);
            if matches!(how, Left::Break) {
                break;
            }
        }
        self.variables.truncate(before);
        Ok(left)
    }

    /// The numbers below one.
    fn count(&mut self, value: &Val) -> Done<Vec<(Val, Val)>> {
        let (count, make): (u64, fn(u64) -> Val) = match value {
            Val::Int(count) => {
                let count = u64::try_from(*count).unwrap_or(0);
                (count, |at| Val::Int(i64::try_from(at).unwrap_or(i64::MAX)))
            }
            Val::Uint(count) => (*count, Val::Uint),
            Val::Byte(count) => (u64::from(*count), |at| Val::Byte(u8::try_from(at).unwrap_or(0))),
            _ => (0, Val::Uint),
        };
        let units = usize::try_from(count).unwrap_or(usize::MAX);
        self.heap.spend(units).or_else(|what| self.fail(&what))?;
        Ok((0..count).map(|at| (make(at), make(at))).collect())
    }

    /// Gives the variables of a `range` their values for one element.
    fn declare(&mut self, pipe: &'a Pipe, mark: usize, index: &Val, item: &Val) -> Done<()> {
        let values = match pipe.declares.as_slice() {
            [] => return Ok(()),
            [one] => vec![(one, item)],
            [first, second, ..] => vec![(first, index), (second, item)],
        };
        let count = values.len();
        for (position, (name, value)) in values.into_iter().enumerate() {
            if pipe.assigns {
                self.assign(name, value.clone())?;
            } else {
                self.variables[mark - count + position].1 = value.clone();
            }
        }
        Ok(())
    }

    fn template(
        &mut self,
        dot: &Val,
        at: usize,
        name: &'a str,
        pipe: Option<&'a Pipe>,
    ) -> Done<()> {
        self.at = Some((at, Spot::Template(name, pipe)));
        let Some(nodes) = self.forest.trees.get(name) else {
            return self.fail(&format!("template {} not defined", print::quoted(name)));
        };
        let dot = match pipe {
            Some(pipe) => self.pipe(dot, pipe)?,
            None => Val::Nil,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), dot.clone())]);
        let outer_name = std::mem::replace(&mut self.name, name.to_owned());
        self.list(&dot, nodes)?;
        self.variables = outer;
        self.name = outer_name;
        Ok(())
    }

    fn pipe(&mut self, dot: &Val, pipe: &'a Pipe) -> Done<Val> {
        self.at = Some((pipe.at, Spot::Pipe(pipe)));
        self.enter()?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(dot, command, value)?);
        }
        let value = value.unwrap_or(Val::Nil);
        for name in &pipe.declares {
            if pipe.assigns {
                self.assign(name, value.clone())?;
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        self.calls -= 1;
        Ok(value)
    }

    fn assign(&mut self, name: &str, value: Val) -> Done<()> {
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, slot)) => {
                *slot = value;
                Ok(())
            }
            None => self.fail(&format!("undefined variable: {name}")),
        }
    }

    fn command(&mut self, dot: &Val, command: &'a Command, last: Option<Val>) -> Done<Val> {
        self.heap.spend(1).or_else(|what| self.fail(&what))?;
        let first = &command.args[0];
        let given = command.args.len() > 1 || last.is_some();
        match &first.kind {
            ArgKind::Function(name) => {
                self.at_arg(first);
                self.call(dot, name, &command.args[1..], last, Spot::Command(command), command.at)
            }
            ArgKind::Pipe(pipe) => {
                self.no_arguments(given, first)?;
                self.pipe(dot, pipe)
            }
            ArgKind::Field(names) => {
                self.at_arg(first);
                self.fields(dot.clone(), names, given)
            }
            ArgKind::Chain(of, names) => {
                self.at_arg(first);
                let of = self.chained(dot, first, of)?;
                self.fields(of, names, given)
            }
            ArgKind::Variable(name, names) => {
                self.at_arg(first);
                let value = self.variable(name)?;
                if names.is_empty() {
                    self.no_arguments(given, first)?;
                    return Ok(value);
                }
                self.fields(value, names, given)
            }
            ArgKind::Nil => {
                self.at_arg(first);
                self.no_arguments(given, first)?;
                self.fail("nil is not a command")
            }
            _ => {
                self.at_arg(first);
                self.no_arguments(given, first)?;
                self.any(dot, first)
            }
        }
    }

    fn no_arguments(&self, given: bool, to: &Arg) -> Done<()> {
        if given {
            let to = match &to.kind {
                ArgKind::Pipe(pipe) => pipe.to_string(),
                _ => to.to_string(),
            };
            return self.fail(&format!("can't give argument to non-function {to}"));
        }
        Ok(())
    }

    /// What a chain of fields begins at.
    fn chained(&mut self, dot: &Val, chain: &'a Arg, of: &'a Arg) -> Done<Val> {
        if matches!(of.kind, ArgKind::Nil) {
            return self.fail(&format!("indirection through explicit nil in {chain}"));
        }
        self.at_arg(of);
        self.any(dot, of)
    }

    fn variable(&self, name: &str) -> Done<Val> {
        let known = self.variables.iter().rev().find(|(known, _)| known == name);
        match known {
            Some((_, value)) => Ok(value.clone()),
            None => self.fail(&format!("undefined variable: {name}")),
        }
    }

    fn fields(&mut self, of: Val, names: &[String], given: bool) -> Done<Val> {
        let mut value = of;
        let mut boxed = false;
        for (position, name) in names.iter().enumerate() {
            let given = given && position + 1 == names.len();
            let within_any =
                matches!(&value, Val::Map(at) if self.heap.map_at(*at).of == Of::Anything);
            value = self.field(&value, name, given, boxed)?;
            boxed = within_any;
        }
        Ok(value)
    }

    /// A field of a struct or an entry of a map; `boxed` is a value whose type Go knows only as
    /// an interface.
    fn field(&mut self, of: &Val, name: &str, given: bool, boxed: bool) -> Done<Val> {
        let type_name = if boxed { "interface {}".to_owned() } else { self.heap.type_name(of) };
        match of {
            Val::Nil if boxed => self.fail(&format!("nil pointer evaluating {type_name}.{name}")),
            Val::Nil => {
                let name = print::quoted(name);
                self.fail(&format!("nil data; no entry for key {name}"))
            }
            Val::Map(_) if given => self.fail(&format!("{name} is not a method but has arguments")),
            Val::Map(at) => match self.heap.map_at(*at).items.get(name) {
                Some(value) => Ok(value.clone()),
                None => {
                    let name = print::quoted(name);
                    self.fail(&format!("map has no entry for key {name}"))
                }
            },
            Val::Record(at) => {
                let record = self.heap.record_at(*at);
                let found = record.fields.iter().find(|(field, _)| field == name);
                match (found, &record.text) {
                    (Some(_), _) if given => self
                        .fail(&format!("{name} has arguments but cannot be invoked as function")),
                    (Some((_, value)), _) => Ok(value.clone()),
                    (None, Some(text)) if name == "String" && !given => Ok(Val::Str(text.clone())),
                    _ => self.fail(&format!("can't evaluate field {name} in type {type_name}")),
                }
            }
            _ => self.fail(&format!("can't evaluate field {name} in type {type_name}")),
        }
    }

    /// An operand where anything goes.
    fn any(&mut self, dot: &Val, arg: &'a Arg) -> Done<Val> {
        self.at_arg(arg);
        match &arg.kind {
            ArgKind::Dot => Ok(dot.clone()),
            ArgKind::Nil => Ok(Val::Nil),
            ArgKind::Bool(value) => Ok(Val::Bool(*value)),
            ArgKind::String(_, text) => Ok(Val::Str(text.as_str().into())),
            ArgKind::Number(number) => self.constant(number),
            ArgKind::Field(names) => self.fields(dot.clone(), names, false),
            ArgKind::Variable(name, names) => {
                let value = self.variable(name)?;
                self.fields(value, names, false)
            }
            ArgKind::Pipe(pipe) => self.pipe(dot, pipe),
            ArgKind::Function(name) => self.call(dot, name, &[], None, Spot::Arg(arg), arg.at),
            ArgKind::Chain(of, names) => {
                let of = self.chained(dot, arg, of)?;
                self.fields(of, names, false)
            }
        }
    }

    fn constant(&self, number: &Number) -> Done<Val> {
        if number.complex {
            return self.fail("complex numbers are not available");
        }
        let text = &number.text;
        let is_hex = text.starts_with("0x") || text.starts_with("0X");
        let is_char = text.starts_with('\'');
        let looks_float = !is_char && !is_hex && text.contains(['.', 'e', 'E', 'p', 'P']);
        match (number.float, number.int) {
            (Some(float), _) if looks_float => Ok(Val::Float(float)),
            (_, Some(int)) => Ok(Val::Int(int)),
            _ => self.fail(&format!("{text} overflows int")),
        }
    }

    fn call(
        &mut self,
        dot: &Val,
        name: &str,
        args: &'a [Arg],
        last: Option<Val>,
        spot: Spot<'a>,
        at: usize,
    ) -> Done<Val> {
        let Some(func) = funcs::find(name) else {
            return self.fail(&format!("{} is not a defined function", print::quoted(name)));
        };
        let given = args.len() + usize::from(last.is_some());
        let fixed = func.params.len();
        if func.rest.is_some() && given < fixed {
            let got = args.len();
            return self.fail(&format!(
                "wrong number of args for {name}: want at least {fixed} got {got}"
            ));
        }
        if func.rest.is_none() && given != fixed {
            return self
                .fail(&format!("wrong number of args for {name}: want {fixed} got {given}"));
        }
        if matches!(name, "and" | "or") {
            return self.junction(dot, name == "or", args, last);
        }
        let mut values = Vec::with_capacity(given);
        for (position, arg) in args.iter().enumerate() {
            let value = self.argument(dot, param(func, position), arg)?;
            values.push(value);
        }
        if let Some(last) = last {
            let last = self.fits(last, param(func, values.len()))?;
            values.push(last);
        }
        let size: usize = values.iter().map(size).sum();
        let result = self.heap.spend(size + 1).and_then(|()| (func.run)(&mut self.heap, &values));
        result.or_else(|what| {
            self.at = Some((at, spot));
            self.fail(&format!("error calling {name}: {what}"))
        })
    }

    /// `and` and `or`, which look no further than they must.
    fn junction(
        &mut self,
        dot: &Val,
        until: bool,
        args: &'a [Arg],
        last: Option<Val>,
    ) -> Done<Val> {
        let mut value = Val::Nil;
        for arg in args {
            value = self.argument(dot, Ty::Any, arg)?;
            if self.heap.truth(&value) == until {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn argument(&mut self, dot: &Val, ty: Ty, arg: &'a Arg) -> Done<Val> {
        self.at_arg(arg);
        match (&arg.kind, ty) {
            (ArgKind::Nil, Ty::Any | Ty::Dict) => Ok(Val::Nil),
            (ArgKind::Nil, _) => self.fail(&format!("cannot assign nil to {}", ty.name())),
            (ArgKind::Bool(_) | ArgKind::Number(_) | ArgKind::String(..), Ty::Any)
            | (ArgKind::Bool(_), Ty::Bool)
            | (ArgKind::String(..), Ty::Str) => self.any(dot, arg),
            (ArgKind::Number(number), Ty::Int) => match number.int {
                Some(int) => Ok(Val::Int(int)),
                None => self.fail(&format!("expected integer; found {arg}")),
            },
            (ArgKind::Bool(_) | ArgKind::Number(_) | ArgKind::String(..), _) => match ty {
                Ty::Bool => self.fail(&format!("expected bool; found {arg}")),
                Ty::Str => self.fail(&format!("expected string; found {arg}")),
                Ty::Int => self.fail(&format!("expected integer; found {arg}")),
                Ty::Any | Ty::Dict => {
                    self.fail(&format!("can't handle {arg} for arg of type {}", ty.name()))
                }
            },
            _ => {
                let value = self.any(dot, arg)?;
                self.fits(value, ty)
            }
        }
    }

    fn fits(&self, value: Val, ty: Ty) -> Done<Val> {
        let good = match (&value, ty) {
            (_, Ty::Any)
            | (Val::Str(_), Ty::Str)
            | (Val::Int(_), Ty::Int)
            | (Val::Bool(_), Ty::Bool)
            | (Val::Nil, Ty::Dict) => true,
            (Val::Map(at), Ty::Dict) => self.heap.map_at(*at).of == Of::Anything,
            _ => false,
        };
        if good {
            return Ok(value);
        }
        let want = ty.name();
        match value {
            Val::Nil => self.fail(&format!("invalid value; expected {want}")),
            value => {
                let got = self.heap.type_name(&value);
                self.fail(&format!("wrong type for value; expected {want}; got {got}"))
            }
        }
    }

    fn at_arg(&mut self, arg: &'a Arg) {
        self.at = Some((arg.at, Spot::Arg(arg)));
    }

    fn fail<T>(&self, what: &str) -> Done<T> {
        let Some((at, spot)) = self.at else {
            return Err(format!("template: {ROOT}: {what}"));
        };
        let before = &self.source[..at];
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = before.rfind('\n').map_or(at, |newline| at - newline - 1);
        let context = match spot {
            Spot::Arg(arg) => arg.to_string(),
            Spot::Command(command) => command.to_string(),
            Spot::Pipe(pipe) => pipe.to_string(),
            Spot::Action(pipe) => format!("{{{{{pipe}}}}}"),
            Spot::Template(name, Some(pipe)) => {
                format!("{{{{template {} {pipe}}}}}", print::quoted(name))
            }
            Spot::Template(name, None) => format!("{{{{template {}}}}}", print::quoted(name)),
        };
        let context: String = context.chars().take(MAX_CONTEXT).collect();
        let name = print::quoted(&self.name);
        Err(format!("template: {ROOT}:{line}:{column}: executing {name} at <{context}>: {what}"))
    }
}

fn param(func: &Func, position: usize) -> Ty {
    func.params.get(position).copied().or(func.rest).unwrap_or(Ty::Any)
}

/// What looking at a value costs.
fn size(value: &Val) -> usize {
    match value {
        Val::Str(text) => Rc::<str>::clone(text).len() + 1,
        _ => 1,
    }
}

/// How much of a template an error repeats.
const MAX_CONTEXT: usize = 512;
