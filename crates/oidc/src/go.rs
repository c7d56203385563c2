//! Go's ways with texts, where they show in answers and errors.

use std::fmt::Write as _;

/// `%q`, of the first hundred characters.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for (count, c) in text.chars().enumerate() {
        if count == 100 {
            out.push_str("...");
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' || c == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A JSON document as `json.MarshalIndent` writes it with two spaces.
pub(crate) fn json(document: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// A path as `url.URL.String` writes it.
pub(crate) fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path without its percent-encoding; a slash that was encoded stays so, and is no separator.
/// `None` when it is not encoded well.
pub(crate) fn decode_path(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |it: Option<u8>| char::from(it?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        match u8::try_from(value).ok()? {
            b'/' => out.extend(b"%2F"),
            byte => out.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// `path.Clean` of an absolute path.
pub(crate) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A URL's scheme, host with port, and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// As much of `url.Parse` as its users' checks need.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let fail = |why: &str| Err(format!("parse {}: {why}", quote(text)));
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let rest = &text[..end];
    let (scheme, rest) = match rest.split_once(':') {
        Some(("", _)) => return fail("missing protocol scheme"),
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        Some((first, _)) if !first.contains('/') => {
            return fail("first path segment in URL cannot contain colon");
        }
        _ => (String::new(), rest),
    };
    let Some(after) = rest.strip_prefix("//") else {
        return Ok(Url { scheme, host: String::new(), path: rest.to_owned() });
    };
    let (host, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let port = host.rsplit_once(']').map_or(host, |(_, tail)| tail).rsplit_once(':');
    if let Some((_, port)) = port
        && !port.bytes().all(|it| it.is_ascii_digit())
    {
        return fail(&format!("invalid port {} after host", quote(&format!(":{port}"))));
    }
    if let Some(bad) = host.chars().find(|it| " \"<>^`{|}\\".contains(*it)) {
        return fail(&format!("invalid character {} in host name", quote(&bad.to_string())));
    }
    Ok(Url { scheme, host: host.to_owned(), path: path.to_owned() })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|it: char| it.is_ascii_alphabetic())
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart_as_in_go() {
        let url = parse_url("HTTPS://user@a.test:1/b/c?d#e").unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str()), ("https", "a.test:1"));
        assert_eq!(url.path, "/b/c");
        assert_eq!(parse_url("a.test/b").unwrap().scheme, "");
        assert_eq!(parse_url("https:///b").unwrap().host, "");
        let errors = [":a", "https://a.test:x/", "1a:b", "https://a b/", "a\n"];
        for error in errors {
            assert!(parse_url(error).is_err(), "{error:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_in_go() {
        let pairs = [("/", "/"), ("//a//b/", "/a/b"), ("/a/../../b/.", "/b"), ("", "/")];
        for (path, clean) in pairs {
            assert_eq!(clean_path(path), clean);
        }
    }

    #[test]
    fn an_encoded_slash_separates_nothing() {
        assert_eq!(decode_path("/%6beys").as_deref(), Some("/keys"));
        assert_eq!(decode_path("/a%2fb").as_deref(), Some("/a%2Fb"));
        assert_eq!(decode_path("/%2"), None);
        assert_eq!(decode_path("/%zz"), None);
    }

    #[test]
    fn json_is_safe_within_html() {
        assert_eq!(json(&"<a&b>"), "\"\\u003ca\\u0026b\\u003e\"");
    }
}
