//! Tokens to a tree.

use crate::ast::{Arg, ArgKind, Branch, Command, Forest, Node, Pipe};
use crate::funcs;
use crate::lex::{Kind, Token, tokens};
use crate::literal;

/// The name of every template's root, as SPIRE names it: errors begin with it.
pub(crate) const ROOT: &str = "agent-path";

/// How deep control structures and parentheses may be nested.
const MAX_NESTING: usize = 50;

/// Parses a template; an error is Go's text.
pub(crate) fn parse(text: &str) -> Result<Forest, String> {
    let mut parser = Parser {
        tokens: tokens(text),
        next: 0,
        seen: 0,
        action_line: 0,
        nesting: 0,
        scope: Scope::default(),
        forest: Forest::default(),
    };
    let root = parser.root()?;
    parser.add(ROOT, root)?;
    Ok(parser.forest)
}

/// What a list of nodes ended with.
enum Last {
    End,
    Else,
    Nothing,
}

/// What is declared where the parser is.
struct Scope {
    variables: Vec<String>,
    ranges: usize,
}

impl Default for Scope {
    fn default() -> Self {
        Self { variables: vec!["$".to_owned()], ranges: 0 }
    }
}

enum Item {
    Node(Node),
    End,
    Else,
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    /// The furthest token that was looked at: errors name its line.
    seen: usize,
    action_line: usize,
    nesting: usize,
    scope: Scope,
    forest: Forest,
}

type Parsed<T> = Result<T, String>;

impl Parser {
    fn root(&mut self) -> Parsed<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            match self.peek().kind {
                Kind::Eof => return Ok(nodes),
                Kind::LeftDelim => {
                    let before = self.next;
                    self.take();
                    if self.take_nonspace().kind == Kind::Define {
                        self.definition()?;
                        continue;
                    }
                    self.next = before;
                }
                _ => {}
            }
            match self.text_or_action()? {
                Item::Node(node) => nodes.push(node),
                Item::End => return self.fail("unexpected {{end}}"),
                Item::Else => return self.fail("unexpected {{else}}"),
            }
        }
    }

    fn definition(&mut self) -> Parsed<()> {
        const CONTEXT: &str = "define clause";
        let token = self.take_nonspace();
        let name = self.template_name(&token, CONTEXT)?;
        self.expect(Kind::RightDelim, CONTEXT)?;
        let body = self.body(CONTEXT)?;
        self.add(&name, body)
    }

    /// The body of a template within this one, which sees no variables of it.
    fn body(&mut self, context: &str) -> Parsed<Vec<Node>> {
        let outer = std::mem::take(&mut self.scope);
        let (nodes, end) = self.list()?;
        self.scope = outer;
        match end {
            Last::End => Ok(nodes),
            Last::Else => self.fail(&format!("unexpected {{{{else}}}} in {context}")),
            Last::Nothing => self.fail("unexpected EOF"),
        }
    }

    fn add(&mut self, name: &str, nodes: Vec<Node>) -> Parsed<()> {
        match self.forest.trees.get(name) {
            Some(old) if !is_blank(old) => {
                if is_blank(&nodes) {
                    return Ok(());
                }
                let name = crate::print::quoted(name);
                self.fail(&format!("template: multiple definition of template {name}"))
            }
            _ => {
                self.forest.trees.insert(name.to_owned(), nodes);
                Ok(())
            }
        }
    }

    fn list(&mut self) -> Parsed<(Vec<Node>, Last)> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.fail("nested too deeply");
        }
        let mut nodes = Vec::new();
        let end = loop {
            if self.peek_nonspace().kind == Kind::Eof {
                break Last::Nothing;
            }
            match self.text_or_action()? {
                Item::Node(node) => nodes.push(node),
                Item::End => break Last::End,
                Item::Else => break Last::Else,
            }
        };
        self.nesting -= 1;
        Ok((nodes, end))
    }

    fn text_or_action(&mut self) -> Parsed<Item> {
        let token = self.take_nonspace();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(token.text))),
            Kind::LeftDelim => {
                self.action_line = token.line;
                let item = self.action()?;
                self.action_line = 0;
                Ok(item)
            }
            _ => self.unexpected(&token, "input"),
        }
    }

    fn action(&mut self) -> Parsed<Item> {
        let token = self.take_nonspace();
        let node = match token.kind {
            Kind::Block => self.block()?,
            Kind::Break | Kind::Continue => self.jump(token.kind)?,
            Kind::Else => {
                if !matches!(self.peek_nonspace().kind, Kind::If | Kind::With) {
                    self.expect(Kind::RightDelim, "else")?;
                }
                return Ok(Item::Else);
            }
            Kind::End => {
                self.expect(Kind::RightDelim, "end")?;
                return Ok(Item::End);
            }
            Kind::If => Node::If(self.branch("if")?),
            Kind::Range => Node::Range(self.branch("range")?),
            Kind::With => Node::With(self.branch("with")?),
            Kind::Template => self.invocation()?,
            _ => {
                self.next -= 1;
                Node::Action(self.pipeline("command", Kind::RightDelim)?)
            }
        };
        Ok(Item::Node(node))
    }

    fn jump(&mut self, kind: Kind) -> Parsed<Node> {
        let (word, node) = match kind {
            Kind::Break => ("{{break}}", Node::Break),
            _ => ("{{continue}}", Node::Continue),
        };
        self.expect(Kind::RightDelim, word)?;
        if self.scope.ranges == 0 {
            return self.fail(&format!("{word} outside {{{{range}}}}"));
        }
        Ok(node)
    }

    fn branch(&mut self, context: &str) -> Parsed<Branch> {
        let variables = self.scope.variables.len();
        let pipe = self.pipeline(context, Kind::RightDelim)?;
        let is_range = usize::from(context == "range");
        self.scope.ranges += is_range;
        let (then, end) = self.list()?;
        self.scope.ranges -= is_range;
        let otherwise = match end {
            Last::End => None,
            Last::Nothing => return self.fail("unexpected EOF"),
            Last::Else => Some(self.otherwise(context)?),
        };
        self.scope.variables.truncate(variables);
        Ok(Branch { pipe, then, otherwise })
    }

    fn otherwise(&mut self, context: &str) -> Parsed<Vec<Node>> {
        let next = self.peek_nonspace().kind;
        if (context, next) == ("if", Kind::If) || (context, next) == ("with", Kind::With) {
            self.take_nonspace();
            self.nesting += 1;
            if self.nesting > MAX_NESTING {
                return self.fail("nested too deeply");
            }
            let branch = self.branch(context)?;
            self.nesting -= 1;
            let node = if next == Kind::If { Node::If(branch) } else { Node::With(branch) };
            return Ok(vec![node]);
        }
        let (nodes, end) = self.list()?;
        match end {
            Last::End => Ok(nodes),
            Last::Else => self.fail("expected end; found {{else}}"),
            Last::Nothing => self.fail("unexpected EOF"),
        }
    }

    fn block(&mut self) -> Parsed<Node> {
        const CONTEXT: &str = "block clause";
        let token = self.take_nonspace();
        let name = self.template_name(&token, CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, Kind::RightDelim)?;
        let body = self.body(CONTEXT)?;
        self.add(&name, body)?;
        Ok(Node::Template { at: token.at, name, pipe: Some(pipe) })
    }

    fn invocation(&mut self) -> Parsed<Node> {
        const CONTEXT: &str = "template clause";
        let token = self.take_nonspace();
        let name = self.template_name(&token, CONTEXT)?;
        let pipe = match self.take_nonspace().kind {
            Kind::RightDelim => None,
            _ => {
                self.next -= 1;
                Some(self.pipeline(CONTEXT, Kind::RightDelim)?)
            }
        };
        Ok(Node::Template { at: token.at, name, pipe })
    }

    fn template_name(&mut self, token: &Token, context: &str) -> Parsed<String> {
        match token.kind {
            Kind::String | Kind::RawString => match literal::unquote(&token.text) {
                Some(name) => Ok(name),
                None => self.fail("invalid syntax"),
            },
            _ => self.unexpected(token, context),
        }
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Parsed<Pipe> {
        let at = self.peek_nonspace().at;
        let mut pipe = Pipe { at, assigns: false, declares: Vec::new(), commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.take_nonspace();
            match token.kind {
                kind if kind == end => break,
                Kind::Bool
                | Kind::CharConstant
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => {
                    self.next -= 1;
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(&token, context),
            }
        }
        if pipe.commands.is_empty() {
            return self.fail(&format!("missing value for {context}"));
        }
        for (position, command) in pipe.commands.iter().enumerate().skip(1) {
            let fixed = matches!(
                command.args[0].kind,
                ArgKind::Bool(_)
                    | ArgKind::Dot
                    | ArgKind::Nil
                    | ArgKind::Number(_)
                    | ArgKind::String(..)
            );
            if fixed {
                let stage = position + 1;
                return self.fail(&format!("non executable command in pipeline stage {stage}"));
            }
        }
        Ok(pipe)
    }

    /// What a pipeline begins with where it declares or assigns variables.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Parsed<()> {
        loop {
            let before = self.next;
            let variable = self.take_nonspace();
            if variable.kind != Kind::Variable {
                self.next = before;
                return Ok(());
            }
            let sign = self.take_nonspace();
            let is_comma = sign.kind == Kind::Char && sign.text == ",";
            if !is_comma && !matches!(sign.kind, Kind::Assign | Kind::Declare) {
                self.next = before;
                return Ok(());
            }
            pipe.declares.push(variable.text.clone());
            self.scope.variables.push(variable.text);
            if !is_comma {
                pipe.assigns = sign.kind == Kind::Assign;
                return Ok(());
            }
            if context != "range" || pipe.declares.len() >= 2 {
                return self.fail(&format!("too many declarations in {context}"));
            }
            let next = self.peek_nonspace().kind;
            if !matches!(next, Kind::Variable | Kind::RightDelim | Kind::RightParen) {
                return self.fail("range can only initialize variables");
            }
        }
    }

    fn command(&mut self) -> Parsed<Command> {
        let mut command = Command { at: self.peek_nonspace().at, args: Vec::new() };
        loop {
            self.skip_spaces();
            if let Some(arg) = self.operand()? {
                command.args.push(arg);
            }
            let token = self.take();
            match token.kind {
                Kind::Space => {}
                Kind::RightDelim | Kind::RightParen => {
                    self.next -= 1;
                    break;
                }
                Kind::Pipe => break,
                _ => return self.unexpected(&token, "operand"),
            }
        }
        if command.args.is_empty() {
            return self.fail("empty command");
        }
        Ok(command)
    }

    fn operand(&mut self) -> Parsed<Option<Arg>> {
        let Some(mut arg) = self.term()? else { return Ok(None) };
        let at = self.peek().at;
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(self.take().text.split_off(1));
        }
        if fields.is_empty() {
            return Ok(Some(arg));
        }
        match &mut arg.kind {
            ArgKind::Field(names) | ArgKind::Variable(_, names) => names.append(&mut fields),
            ArgKind::Bool(_)
            | ArgKind::String(..)
            | ArgKind::Number(_)
            | ArgKind::Nil
            | ArgKind::Dot => {
                let shown = crate::print::quoted(&arg.to_string());
                return self.fail(&format!("unexpected . after term {shown}"));
            }
            ArgKind::Function(_) | ArgKind::Pipe(_) | ArgKind::Chain(..) => {
                return Ok(Some(Arg { at, kind: ArgKind::Chain(Box::new(arg), fields) }));
            }
        }
        Ok(Some(Arg { at, kind: arg.kind }))
    }

    fn term(&mut self) -> Parsed<Option<Arg>> {
        let token = self.take_nonspace();
        let kind = match token.kind {
            Kind::Identifier if funcs::find(&token.text).is_some() => ArgKind::Function(token.text),
            Kind::Identifier => {
                let name = crate::print::quoted(&token.text);
                return self.fail(&format!("function {name} not defined"));
            }
            Kind::Dot => ArgKind::Dot,
            Kind::Nil => ArgKind::Nil,
            Kind::Variable if self.scope.variables.contains(&token.text) => {
                ArgKind::Variable(token.text, Vec::new())
            }
            Kind::Variable => {
                let name = crate::print::quoted(&token.text);
                return self.fail(&format!("undefined variable {name}"));
            }
            Kind::Field => ArgKind::Field(vec![token.text[1..].to_owned()]),
            Kind::Bool => ArgKind::Bool(token.text == "true"),
            Kind::CharConstant | Kind::Complex | Kind::Number => {
                match literal::number(&token.text, token.kind) {
                    Ok(number) => ArgKind::Number(number),
                    Err(what) => return self.fail(&what),
                }
            }
            Kind::LeftParen => {
                self.nesting += 1;
                if self.nesting > MAX_NESTING {
                    return self.fail("max expression depth exceeded");
                }
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                self.nesting -= 1;
                ArgKind::Pipe(Box::new(pipe))
            }
            Kind::String | Kind::RawString => match literal::unquote(&token.text) {
                Some(value) => ArgKind::String(token.text, value),
                None => return self.fail("invalid syntax"),
            },
            _ => {
                self.next -= 1;
                return Ok(None);
            }
        };
        let at = match &kind {
            ArgKind::Pipe(pipe) => pipe.at,
            _ => token.at,
        };
        Ok(Some(Arg { at, kind }))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Parsed<()> {
        let token = self.take_nonspace();
        if token.kind == kind { Ok(()) } else { self.unexpected(&token, context) }
    }

    fn unexpected<T>(&self, token: &Token, context: &str) -> Parsed<T> {
        if token.kind == Kind::Error {
            let mut text = token.text.clone();
            if self.action_line != 0 && self.action_line != token.line {
                let line = self.action_line;
                let extra = format!(" in action started at {ROOT}:{line}");
                match text.ends_with(" action") {
                    true => text.push_str(extra.trim_start_matches(" in action")),
                    false => text.push_str(&extra),
                }
            }
            return self.fail(&text);
        }
        self.fail(&format!("unexpected {} in {context}", token.shown()))
    }

    fn fail<T>(&self, what: &str) -> Parsed<T> {
        let line = self.tokens[self.seen].line;
        Err(format!("template: {ROOT}:{line}: {what}"))
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        // The last token stays: nothing follows it.
        self.next += 1;
        token
    }

    fn peek(&mut self) -> &Token {
        let at = self.next.min(self.tokens.len() - 1);
        self.seen = self.seen.max(at);
        &self.tokens[at]
    }

    fn skip_spaces(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn take_nonspace(&mut self) -> Token {
        self.skip_spaces();
        self.take()
    }

    fn peek_nonspace(&mut self) -> &Token {
        self.skip_spaces();
        self.peek()
    }
}

fn is_blank(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}
