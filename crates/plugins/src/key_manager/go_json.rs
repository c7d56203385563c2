//! A string as Go's `encoding/json` writes it, which escapes what HTML would mind.

use std::fmt::Write as _;

/// Appends `text` with quotes.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..' ' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes any text");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go_does_and_reads_back() {
        let text = "a\"\\\n\t\u{1}<b>&\u{2028}é";
        let mut out = String::new();
        push_string(&mut out, text);
        assert_eq!(out, "\"a\\\"\\\\\\n\\t\\u0001\\u003cb\\u003e\\u0026\\u2028é\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}
