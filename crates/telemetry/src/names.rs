//! Spelling of labels.

/// Every run of what is not a letter, digit or underscore of ASCII, with one
/// underscore after it, becomes one underscore, as in SPIRE.
pub fn sanitize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_word(c) {
            out.push(c);
            continue;
        }
        while chars.next_if(|c| !is_word(*c)).is_some() {}
        chars.next_if_eq(&'_');
        out.push('_');
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn runs_of_odd_characters_become_one_underscore() {
        for (text, expected) in [
            ("status", "status"),
            ("example.org", "example_org"),
            ("spiffe://a.b/c", "spiffe_a_b_c"),
            ("a._b", "a_b"),
            ("a.__b", "a__b"),
            ("1.15.1", "1_15_1"),
            ("", ""),
            ("ü", "_"),
        ] {
            assert_eq!(sanitize(text), expected, "{text:?}");
        }
    }
}
