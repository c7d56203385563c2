//! What keeps an agent going while servers are away; the keys are ours.

use std::time::Duration;

use steeple_hcl::Located;
use steeple_runtime::duration::parse_go;

use super::OfflineCacheConfig;
use crate::{
    checks::{Checker, quote, set},
    raw::agent::{Agent, OfflineCache},
};

const KEY: &str = "agent.server_addresses";
/// As many as a fleet should ever need.
const MAX_SERVERS: usize = 32;

/// `server_address` and what `server_addresses` has beside it.
pub(super) fn servers(checker: &mut Checker, agent: &Agent, port: u16) -> Vec<(String, u16)> {
    let first = set(&agent.server_address).map(|host| (host.to_owned(), port));
    let list = &agent.server_addresses;
    let mut servers: Vec<(String, u16)> = first.into_iter().collect();
    for text in list.value.iter().flatten() {
        match server(text, port) {
            Some(server) if !servers.contains(&server) => servers.push(server),
            Some(_) => {}
            None => {
                let text = format!("{} is not a server's address: host or host:port", quote(text));
                checker.problem(list.line(), KEY, text);
            }
        }
    }
    if servers.len() > MAX_SERVERS {
        let text = format!("server_addresses has more than {MAX_SERVERS} servers");
        checker.problem(list.line(), KEY, text);
        servers.truncate(MAX_SERVERS);
    }
    servers
}

/// `host`, `host:port`, `[ipv6]`, `[ipv6]:port` or an IPv6 address as it is.
fn server(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if rest.is_empty() => port,
        None => return None,
    };
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(sane)).then(|| (host.to_owned(), port))
}

/// `experimental.offline_cache`; `None` when it is off.
pub(super) fn offline_cache(
    checker: &mut Checker,
    raw: &Located<OfflineCache>,
) -> Option<OfflineCacheConfig> {
    let cache = raw.as_ref()?;
    let max_age = match set(&cache.max_age).map(parse_go) {
        None => DEFAULT_MAX_AGE,
        Some(Ok(age)) if !age.is_zero() => age,
        Some(wrong) => {
            let why = wrong.err().map_or("not longer than nothing".into(), |e| e.to_string());
            let text = format!("could not parse offline_cache.max_age: {why}");
            let key = "agent.experimental.offline_cache.max_age";
            checker.problem(cache.max_age.line(), key, text);
            DEFAULT_MAX_AGE
        }
    };
    let enabled = cache.enabled.value.unwrap_or(true);
    let jwt_svids = cache.jwt_svids.value.unwrap_or(false);
    enabled.then_some(OfflineCacheConfig { max_age, jwt_svids })
}

const DEFAULT_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_in_every_usual_form() {
        let read = |text| server(text, 8081).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(read("a.example").as_deref(), Some("a.example 8081"));
        assert_eq!(read("a.example:1").as_deref(), Some("a.example 1"));
        assert_eq!(read("[::1]:2").as_deref(), Some("::1 2"));
        assert_eq!(read("[::1]").as_deref(), Some("::1 8081"));
        assert_eq!(read("::1").as_deref(), Some("::1 8081"));
        for wrong in ["", ":1", "a:", "a:0", "a:65536", "a b", "[::1", "[::1]x", "https://a"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
