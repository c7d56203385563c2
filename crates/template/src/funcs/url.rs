//! URLs taken apart and put together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

use super::{Answer, Func, S, Ty, func, string};
use crate::heap::{Heap, Val};

pub(super) static TABLE: &[Func] =
    &[func("urlParse", S, parse), func("urlJoin", &[Ty::Dict], join)];

fn parse(heap: &mut Heap, args: &[Val]) -> Answer {
    let text = string(args, 0);
    let broken = |why: &str| {
        let shown = crate::print::quoted(&text);
        format!("unable to parse url: parse {shown}: {why}")
    };
    let parts = Parts::of(&text).map_err(|why| broken(&why))?;
    let entries = [
        ("scheme", parts.scheme),
        ("hostname", hostname(&parts.host).to_owned()),
        ("host", parts.host),
        ("path", parts.path),
        ("query", parts.query),
        ("opaque", parts.opaque),
        ("fragment", parts.fragment),
        ("userinfo", parts.userinfo),
    ];
    let map: BTreeMap<Rc<str>, Val> =
        entries.into_iter().map(|(key, value)| (key.into(), Val::Str(value.into()))).collect();
    heap.spend(text.len())?;
    heap.map(map)
}

#[derive(Default)]
struct Parts {
    scheme: String,
    opaque: String,
    userinfo: String,
    host: String,
    path: String,
    query: String,
    fragment: String,
}

impl Parts {
    fn of(text: &str) -> Result<Self, String> {
        let mut parts = Self::default();
        if text.chars().any(|c| c.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        parts.fragment = unescape(fragment)?;
        let rest = parts.take_scheme(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        parts.query = query.to_owned();
        if !rest.starts_with('/') {
            if !parts.scheme.is_empty() {
                parts.opaque = rest.to_owned();
                return Ok(parts);
            }
            if rest.split('/').next().is_some_and(|first| first.contains(':')) {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let has_authority =
            rest.starts_with("//") && (!parts.scheme.is_empty() || !rest.starts_with("///"));
        let path = match has_authority {
            true => {
                let rest = &rest[2..];
                let end = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let (userinfo, host) = match authority.rsplit_once('@') {
                    Some((userinfo, host)) => (userinfo, host),
                    None => ("", authority),
                };
                parts.userinfo = userinfo.to_owned();
                parts.host = checked_host(host)?;
                path
            }
            false => rest,
        };
        parts.path = unescape(path)?;
        Ok(parts)
    }

    fn take_scheme<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        for (at, c) in text.char_indices() {
            match c {
                'a'..='z' | 'A'..='Z' => {}
                '0'..='9' | '+' | '-' | '.' if at > 0 => {}
                ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
                ':' => {
                    self.scheme = text[..at].to_ascii_lowercase();
                    return Ok(&text[at + 1..]);
                }
                _ => return Ok(text),
            }
        }
        Ok(text)
    }
}

fn checked_host(host: &str) -> Result<String, String> {
    let port = match host.strip_prefix('[') {
        Some(inner) => {
            let (_, after) = inner.split_once(']').ok_or("missing ']' in host")?;
            after
        }
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    let good = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !good {
        return Err(format!("invalid port {} after host", crate::print::quoted(port)));
    }
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '^' | '{' | '}' | '|' | '\\' | '`'))
    {
        let bad = crate::print::quoted(&bad.to_string());
        return Err(format!("invalid character {bad} in host name"));
    }
    unescape(host)
}

fn hostname(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split_once(']').map_or(inner, |(name, _)| name);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let Some(code) = code else {
            let shown = String::from_utf8_lossy(&rest[..rest.len().min(3)]).into_owned();
            return Err(format!("invalid URL escape {}", crate::print::quoted(&shown)));
        };
        bytes.push(code);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what it escapes is not text".to_owned())
}

fn escape(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || (c.is_ascii() && also.contains(c)) {
            out.push(c);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn join(heap: &mut Heap, args: &[Val]) -> Answer {
    let part = |key: &str| -> Result<String, String> {
        let Val::Map(map) = &args[0] else { return Ok(String::new()) };
        match heap.map_at(*map).items.get(key) {
            None => Ok(String::new()),
            Some(Val::Str(text)) => Ok(text.to_string()),
            Some(other) => Err(format!(
                "unable to parse {key} key, must be of type string, but {} found",
                heap.kind_name(other)
            )),
        }
    };
    let (scheme, host, path) = (part("scheme")?, part("host")?, part("path")?);
    let (query, opaque, fragment) = (part("query")?, part("opaque")?, part("fragment")?);
    let userinfo = part("userinfo")?;
    let mut out = String::new();
    if !scheme.is_empty() {
        out.push_str(&scheme);
        out.push(':');
    }
    if opaque.is_empty() {
        if !scheme.is_empty() || !host.is_empty() || !userinfo.is_empty() {
            if !host.is_empty() || !path.is_empty() || !userinfo.is_empty() {
                out.push_str("//");
            }
            if !userinfo.is_empty() {
                out.push_str(&userinfo);
                out.push('@');
            }
            out.push_str(&escape(&host, "!$&'()*+,;=:[]<>\""));
        }
        let path = escape(&path, "$&+,/:;=@");
        if !path.is_empty() && !path.starts_with('/') && !host.is_empty() {
            out.push('/');
        }
        if out.is_empty() && path.split('/').next().is_some_and(|first| first.contains(':')) {
            out.push_str("./");
        }
        out.push_str(&path);
    } else {
        out.push_str(&opaque);
    }
    if !query.is_empty() {
        out.push('?');
        out.push_str(&query);
    }
    if !fragment.is_empty() {
        out.push('#');
        out.push_str(&escape(&fragment, "!$&'()*+,/:;=?@"));
    }
    heap.text(out)
}
