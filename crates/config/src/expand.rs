//! Variables of the environment in the text of a file.

use crate::Env;

/// Puts variables in place of `$NAME` and `${NAME}`, as Go's `os.Expand` does:
/// everywhere, comments and heredocs included; an unset variable becomes
/// nothing, `$$` becomes `$`, and `${` without a name or an end is eaten.
pub fn expand_env(text: &str, env: Env<'_>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        if after.is_empty() {
            break;
        }
        out.push_str(&rest[..at]);
        let (name, length) = name(after);
        match name {
            "$" => out.push('$'),
            // A dollar sign before what cannot be a name stays; a pair of
            // braces that names nothing goes.
            "" if length == 0 => out.push('$'),
            "" => {}
            name => out.push_str(&env(name).unwrap_or_default()),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    out
}

/// The name that `text` starts with, and how much of the text it takes up.
fn name(text: &str) -> (&str, usize) {
    let bytes = text.as_bytes();
    if bytes.first() == Some(&b'{') {
        if let Some(&special) = bytes.get(1)
            && is_special(special)
            && bytes.get(2) == Some(&b'}')
        {
            return (&text[1..2], 3);
        }
        return match text[1..].find('}') {
            Some(0) => ("", 2),
            Some(at) => (&text[1..=at], at + 2),
            None => ("", 1),
        };
    }
    if bytes.first().is_some_and(|first| is_special(*first)) {
        return (&text[..1], 1);
    }
    let length =
        bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    (&text[..length], length)
}

/// The shell's one-character variables.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9')
}

#[cfg(test)]
mod tests {
    use super::expand_env;

    fn expand(text: &str) -> String {
        expand_env(text, &|name| match name {
            "HOME" => Some("/root".to_owned()),
            "A_1" => Some("$HOME".to_owned()),
            "1" => Some("one".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn puts_variables_in_place_of_their_names() {
        assert_eq!(expand("dir = \"$HOME/x\" # ${HOME}"), "dir = \"/root/x\" # /root");
        assert_eq!(expand("${A_1}$A_1.b"), "$HOME$HOME.b");
        assert_eq!(expand("[$UNSET]"), "[]");
    }

    #[test]
    fn follows_go_in_its_corners() {
        assert_eq!(expand("cost $$5 ${$}"), "cost $5 $");
        assert_eq!(expand("$1x $12"), "onex one2");
        assert_eq!(expand("a$"), "a$");
        assert_eq!(expand("a$ b"), "a$ b");
        assert_eq!(expand("a${}b"), "ab");
        assert_eq!(expand("a${HOME"), "aHOME");
        assert_eq!(expand("a$é"), "a$é");
    }
}
