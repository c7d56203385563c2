//! Lists of names in errors and logs, as Go prints them, none of them endless.

use std::fmt::{self, Write as _};

/// Go's `%q` of a list.
pub(super) fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut out = String::from("[");
    for (position, name) in names.enumerate() {
        if position > 0 {
            out.push(' ');
        }
        if out.len() > MAX_SHOWN {
            out.push('…');
            break;
        }
        quote(name, &mut out);
    }
    out.push(']');
    out
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for (position, c) in text.chars().enumerate() {
        if position == MAX_NAME_SHOWN {
            out.push('…');
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Go's `%v` of a list, for logs.
pub(super) struct Names<'n>(pub(super) &'n [Box<str>]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        f.write_char('[')?;
        for (position, name) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_char(' ')?;
            }
            if shown > MAX_SHOWN {
                f.write_char('…')?;
                break;
            }
            write!(f, "{}", Cut(name))?;
            shown += name.len();
        }
        f.write_char(']')
    }
}

/// A peer's text in a log, not at length.
pub(super) struct Cut<'t>(pub(super) &'t str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MAX_NAME_SHOWN) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

const MAX_SHOWN: usize = 2048;
const MAX_NAME_SHOWN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_look_like_gos_and_end() {
        assert_eq!(list(["a", "b\"c\u{1}"].into_iter()), r#"["a" "b\"c\x01"]"#);
        let names: Vec<Box<str>> = vec!["a".into(), "b".into()];
        assert_eq!(Names(&names).to_string(), "[a b]");
        let long = "x".repeat(600);
        let many: Vec<Box<str>> = vec![long.as_str().into(); 100];
        assert!(list(many.iter().map(AsRef::as_ref)).len() < 4000);
        assert!(Names(&many).to_string().len() < 4000);
    }
}
