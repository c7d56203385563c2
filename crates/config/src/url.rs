//! As much of Go's `url.Parse` as the checks need, with its error texts.

use crate::checks::quote;

/// A URL in its parts, still encoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Url<'a> {
    /// In lower case; empty for a path alone.
    pub scheme: String,
    /// What follows the scheme when it is not a path.
    pub opaque: &'a str,
    /// User and password.
    pub user: Option<&'a str>,
    /// With its port.
    pub host: &'a str,
    /// The path.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// What follows the number sign.
    pub fragment: &'a str,
}

/// Takes a URL apart.
///
/// # Errors
/// What is wrong with it, in Go's words.
pub fn parse(text: &str) -> Result<Url<'_>, String> {
    let fail = |why: &str| format!("parse {}: {why}", quote(text));
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(fail("net/url: invalid control character in URL"));
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = split_scheme(rest).map_err(fail)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut url = Url { scheme, query, fragment, ..Url::default() };

    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest;
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(fail("first path segment in URL cannot contain colon"));
        }
    }
    url.path = rest;
    let has_authority = !url.scheme.is_empty() || !rest.starts_with("///");
    if let Some(after) = rest.strip_prefix("//").filter(|_| has_authority) {
        let at = after.find('/').unwrap_or(after.len());
        let (authority, path) = after.split_at(at);
        url.path = path;
        (url.user, url.host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
    }
    for part in [url.path, url.host] {
        if let Some(bad) = bad_escape(part) {
            return Err(fail(&format!("invalid URL escape {}", quote(bad))));
        }
    }
    if let Some(bad) = url.host.matches([' ', '\\', '^', '`', '{', '|', '}']).next() {
        return Err(fail(&format!("invalid character {} in host name", quote(bad))));
    }
    if let Some(port) = bad_port(url.host) {
        return Err(fail(&format!("invalid port {} after host", quote(port))));
    }
    Ok(url)
}

impl Url<'_> {
    /// The host without its port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        match self.host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((inner, _)) => inner,
            None => self.host.rsplit_once(':').map_or(self.host, |(host, _)| host),
        }
    }

    /// The port, or nothing.
    pub(crate) fn port(&self) -> &str {
        let tail = self.host.rsplit_once(']').map_or(self.host, |(_, tail)| tail);
        tail.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// The names of the query's parameters.
    pub(crate) fn query_names(&self) -> impl Iterator<Item = &str> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        pairs.map(|pair| pair.split('=').next().unwrap_or_default())
    }
}

fn split_scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn bad_escape(part: &str) -> Option<&str> {
    part.match_indices('%').map(|(at, _)| &part[at..]).find_map(|rest| {
        let bytes = rest.as_bytes();
        let fine = bytes.len() >= 3 && bytes[1..3].iter().all(u8::is_ascii_hexdigit);
        let end = rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at);
        (!fine).then(|| &rest[..end])
    })
}

/// A port, colon included, that is not of digits.
fn bad_port(host: &str) -> Option<&str> {
    let tail = host.rfind(']').map_or(host, |at| &host[at + 1..]);
    let port = &tail[tail.rfind(':')?..];
    (!port[1..].bytes().all(|byte| byte.is_ascii_digit())).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_apart_as_go_does() {
        let url = parse("HTTPS://user@host:8443/a?b=c&spiffe-x=1#f").unwrap();
        assert_eq!(
            (url.scheme.as_str(), url.user, url.host, url.path, url.query, url.fragment),
            ("https", Some("user"), "host:8443", "/a", "b=c&spiffe-x=1", "f")
        );
        assert_eq!((url.hostname(), url.port()), ("host", "8443"));
        assert_eq!(url.query_names().collect::<Vec<_>>(), ["b", "spiffe-x"]);
        assert_eq!(parse("file:data.db").unwrap().opaque, "data.db");
        assert_eq!(parse("./data.db").unwrap().path, "./data.db");
        assert_eq!(parse("unix:///run/a.sock").unwrap().path, "/run/a.sock");
    }

    #[test]
    fn names_what_is_wrong_in_gos_words() {
        assert_eq!(parse(":x").unwrap_err(), "parse \":x\": missing protocol scheme");
        let colon = "parse \"1a:b\": first path segment in URL cannot contain colon";
        assert_eq!(parse("1a:b").unwrap_err(), colon);
        let escape = "parse \"/a%zz\": invalid URL escape \"%zz\"";
        assert_eq!(parse("/a%zz").unwrap_err(), escape);
        let host = "parse \"https://a b\": invalid character \" \" in host name";
        assert_eq!(parse("https://a b").unwrap_err(), host);
        let port = "parse \"tcp://1.2.3.4:x\": invalid port \":x\" after host";
        assert_eq!(parse("tcp://1.2.3.4:x").unwrap_err(), port);
    }
}
