//! What a template says, and how Go's errors repeat it.

use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};

/// A template with those that it defines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forest {
    pub(crate) trees: HashMap<String, Vec<Node>>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Text(String),
    Action(Pipe),
    Break,
    Continue,
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { at: usize, name: String, pipe: Option<Pipe> },
}

/// A pipeline that decides, and what it decides about.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) pipe: Pipe,
    pub(crate) then: Vec<Node>,
    pub(crate) otherwise: Option<Vec<Node>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pipe {
    pub(crate) at: usize,
    pub(crate) assigns: bool,
    pub(crate) declares: Vec<String>,
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) at: usize,
    /// Never empty.
    pub(crate) args: Vec<Arg>,
}

#[derive(Clone, Debug)]
pub(crate) struct Arg {
    pub(crate) at: usize,
    pub(crate) kind: ArgKind,
}

#[derive(Clone, Debug)]
pub(crate) enum ArgKind {
    Function(String),
    Dot,
    Nil,
    Field(Vec<String>),
    /// A variable's name, with its `$`, and fields.
    Variable(String, Vec<String>),
    Bool(bool),
    Number(Number),
    /// As written, and its value.
    String(String, String),
    Pipe(Box<Pipe>),
    Chain(Box<Arg>, Vec<String>),
}

/// A number constant: each type that can hold it has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Number {
    pub(crate) text: String,
    pub(crate) int: Option<i64>,
    pub(crate) uint: Option<u64>,
    pub(crate) float: Option<f64>,
    /// It has an imaginary part, with which nothing can be done here.
    pub(crate) complex: bool,
}

impl Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.declares.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.declares.join(", "))?;
        }
        for (position, command) in self.commands.iter().enumerate() {
            if position > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{command}")?;
        }
        Ok(())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, arg) in self.args.iter().enumerate() {
            if position > 0 {
                f.write_char(' ')?;
            }
            match &arg.kind {
                ArgKind::Pipe(pipe) => write!(f, "({pipe})")?,
                _ => write!(f, "{arg}")?,
            }
        }
        Ok(())
    }
}

impl Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ArgKind::Function(name) => f.write_str(name),
            ArgKind::Dot => f.write_char('.'),
            ArgKind::Nil => f.write_str("nil"),
            ArgKind::Field(names) => write!(f, ".{}", names.join(".")),
            ArgKind::Variable(name, fields) => {
                f.write_str(name)?;
                fields.iter().try_for_each(|field| write!(f, ".{field}"))
            }
            ArgKind::Bool(value) => write!(f, "{value}"),
            ArgKind::Number(number) => f.write_str(&number.text),
            ArgKind::String(written, _) => f.write_str(written),
            ArgKind::Pipe(pipe) => write!(f, "{pipe}"),
            ArgKind::Chain(of, fields) => {
                match &of.kind {
                    ArgKind::Pipe(pipe) => write!(f, "({pipe})")?,
                    _ => write!(f, "{of}")?,
                }
                fields.iter().try_for_each(|field| write!(f, ".{field}"))
            }
        }
    }
}
