//! As much of YAML as kubeconfig files are written in: nested maps and lists by indentation,
//! scalars plain or quoted, text blocks, and JSON. What is not understood is refused.

use serde_json::{Map, Value};

/// How deep maps and lists may be nested.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let mut parser = Parser { lines: Vec::new(), next: 0 };
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start_matches(' ');
        if content.starts_with('\t') {
            return Err(format!("yaml: line {}: a tab indents", index + 1));
        }
        parser.lines.push(Line {
            number: index + 1,
            indent: line.len() - content.len(),
            text: content.trim_end(),
        });
    }
    let Some(first) = parser.peek() else { return Ok(Value::Object(Map::new())) };
    let value = parser.block(first.indent, 0)?;
    match parser.peek() {
        None => Ok(value),
        Some(line) => Err(line.wrong("it does not belong to what stands above it")),
    }
}

#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

impl Line<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("yaml: line {}: {what}", self.number)
    }

    fn is_item(&self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }
}

struct Parser<'a> {
    lines: Vec<Line<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    /// The next line that says anything.
    fn peek(&mut self) -> Option<Line<'a>> {
        while let Some(line) = self.lines.get(self.next) {
            let nothing = line.text.is_empty() || line.text.starts_with('#') || line.text == "---";
            if !nothing {
                return Some(*line);
            }
            self.next += 1;
        }
        None
    }

    fn block(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let line = self.peek().ok_or("yaml: unexpected end")?;
        if depth > MAX_DEPTH {
            return Err(line.wrong("it is nested too deeply"));
        }
        if line.is_item() { self.list(indent, depth) } else { self.map(indent, depth) }
    }

    fn list(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent && line.is_item()) {
            let rest = line.text[1..].trim_start();
            if rest.is_empty() || rest.starts_with('#') {
                self.next += 1;
                items.push(self.below(indent, depth)?);
            } else if key(rest).is_some() || rest.starts_with("- ") {
                // A map or list that begins on the item's own line is indented as far as it.
                let inner = indent + line.text.len() - rest.len();
                self.lines[self.next] = Line { indent: inner, text: rest, ..line };
                items.push(self.block(inner, depth + 1)?);
            } else {
                self.next += 1;
                items.push(scalar(rest, &line)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            if line.is_item() {
                break;
            }
            let (name, rest) = key(line.text).ok_or_else(|| line.wrong("no key"))?;
            self.next += 1;
            let value = match rest.chars().next() {
                None | Some('#') => match self.peek() {
                    Some(item) if item.indent == indent && item.is_item() => {
                        self.list(indent, depth + 1)?
                    }
                    _ => self.below(indent, depth)?,
                },
                Some('|' | '>') => self.text(indent, rest.starts_with('|')),
                Some(_) => scalar(rest, &line)?,
            };
            if !value.is_null() {
                map.insert(name, value);
            }
        }
        Ok(Value::Object(map))
    }

    /// What is indented further than `indent`, if anything.
    fn below(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        match self.peek() {
            Some(line) if line.indent > indent => self.block(line.indent, depth + 1),
            _ => Ok(Value::Null),
        }
    }

    /// A block of text, its lines kept or folded.
    fn text(&mut self, indent: usize, keep: bool) -> Value {
        let mut lines = Vec::new();
        while let Some(line) = self.lines.get(self.next) {
            if !line.text.is_empty() && line.indent <= indent {
                break;
            }
            lines.push(line.text);
            self.next += 1;
        }
        Value::String(lines.join(if keep { "\n" } else { " " }).trim_end().to_owned())
    }
}

/// The key that a line begins with, and what follows it.
fn key(text: &str) -> Option<(String, &str)> {
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        let (name, rest) = text[1..].split_once(quote)?;
        return Some((name.to_owned(), rest.strip_prefix(':')?.trim_start()));
    }
    if text.starts_with(['{', '[']) {
        return None;
    }
    let (name, rest) = match text.split_once(": ") {
        Some((name, rest)) => (name, rest.trim_start()),
        None => (text.strip_suffix(':')?, ""),
    };
    Some((name.trim_end().to_owned(), rest))
}

fn scalar(text: &str, line: &Line<'_>) -> Result<Value, String> {
    match text.as_bytes().first() {
        Some(b'"' | b'{' | b'[') => {
            let mut values = serde_json::Deserializer::from_str(text).into_iter();
            match values.next() {
                Some(Ok(value)) => Ok(value),
                _ => Err(line.wrong("its value cannot be read")),
            }
        }
        Some(b'\'') => {
            let inner = text[1..].replace("''", "\u{0}");
            match inner.split_once('\'') {
                Some((value, _)) => Ok(Value::String(value.replace('\u{0}', "'"))),
                None => Err(line.wrong("its quoted value does not end")),
            }
        }
        Some(b'&' | b'*' | b'!') => Err(line.wrong("anchors and tags are not supported")),
        _ => {
            let plain = text.split(" #").next().unwrap_or_default().trim_end();
            Ok(match plain {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" | "~" | "" => Value::Null,
                other => Value::String(other.to_owned()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kubeconfig_as_its_tools_write_it() {
        let text = r#"
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: QUJD   # a comment
    server: https://10.0.0.1:6443/x
    insecure-skip-tls-verify: true
  name: "c 1"
contexts:
  - context: {"cluster": "c 1", "user": "u"}
    name: 'it''s'
current-context: 'it''s'
preferences: {}
users:
-
  name: u
  user:
    token: |
      abc
    client-key: ~
"#;
        let expected = json!({
            "apiVersion": "v1",
            "clusters": [{
                "cluster": {
                    "certificate-authority-data": "QUJD",
                    "server": "https://10.0.0.1:6443/x",
                    "insecure-skip-tls-verify": true
                },
                "name": "c 1"
            }],
            "contexts": [{"context": {"cluster": "c 1", "user": "u"}, "name": "it's"}],
            "current-context": "it's",
            "preferences": {},
            "users": [{"name": "u", "user": {"token": "abc"}}]
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse(&expected.to_string()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = (0..100).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
        for text in ["a: &x 1", "a: \"b", "a: 'b", "just text", "a: 1\n  b: 2", "\ta: 1", &deep] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("# nothing\n").unwrap(), json!({}));
    }
}
