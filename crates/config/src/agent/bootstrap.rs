//! How the agent trusts the server the first time: exactly one way.

use std::{net::IpAddr, path::PathBuf};

use super::{Bootstrap, TrustBundleFormat};
use crate::{
    checks::{Checker, on, set},
    raw::agent::Agent,
    url::{self, Url},
};

const URL_KEY: &str = "agent.trust_bundle_url";
const API_KEY: &str = "agent.trust_bundle_spiffe_workload_api";

pub(super) fn build(checker: &mut Checker, agent: &Agent) -> Option<Bootstrap> {
    let format = format(checker, agent)?;
    if let Err((key, line, text)) = one_way(agent) {
        checker.problem(line, key, text);
        return None;
    }
    if let Some(address) = set(&agent.trust_bundle_spiffe_workload_api) {
        if let Err(why) = workload_api_address(address) {
            let text = format!(
                "trust_bundle_spiffe_workload_api is not a valid SPIFFE Workload API endpoint \
                 address: {why}"
            );
            checker.problem(agent.trust_bundle_spiffe_workload_api.line(), API_KEY, text);
            return None;
        }
        return Some(Bootstrap::WorkloadApi { address: address.to_owned() });
    }
    let unix_socket = set(&agent.trust_bundle_unix_socket).map(PathBuf::from);
    if let Some(text) = set(&agent.trust_bundle_url) {
        if let Err(why) = bundle_url(text, unix_socket.is_some()) {
            checker.problem(agent.trust_bundle_url.line(), URL_KEY, why);
            return None;
        }
        return Some(Bootstrap::Url { url: text.to_owned(), unix_socket, format });
    }
    if unix_socket.is_some() {
        let line = agent.trust_bundle_unix_socket.line();
        let text = "if trust_bundle_unix_socket is specified, so must be trust_bundle_url";
        checker.problem(line, "agent.trust_bundle_unix_socket", text);
        return None;
    }
    match set(&agent.trust_bundle_path) {
        Some(path) => Some(Bootstrap::Path { path: PathBuf::from(path), format }),
        None => Some(Bootstrap::Insecure),
    }
}

fn format(checker: &mut Checker, agent: &Agent) -> Option<TrustBundleFormat> {
    match set(&agent.trust_bundle_format) {
        None | Some("pem") => Some(TrustBundleFormat::Pem),
        Some("spiffe") => Some(TrustBundleFormat::Spiffe),
        Some(_) => {
            let line = agent.trust_bundle_format.line();
            let text = "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"";
            checker.problem(line, "agent.trust_bundle_format", text);
            None
        }
    }
}

/// A key, its line, and what is wrong with it.
type Wrong = (&'static str, Option<usize>, &'static str);

/// The first rule of SPIRE's that the combination breaks.
fn one_way(agent: &Agent) -> Result<(), Wrong> {
    let insecure = on(&agent.insecure_bootstrap);
    let path = set(&agent.trust_bundle_path).is_some();
    let url = set(&agent.trust_bundle_url).is_some();
    let socket = set(&agent.trust_bundle_unix_socket).is_some();
    let api = set(&agent.trust_bundle_spiffe_workload_api).is_some();
    let api_line = agent.trust_bundle_spiffe_workload_api.line();
    let insecure_key =
        |text| Err(("agent.insecure_bootstrap", agent.insecure_bootstrap.line(), text));
    match () {
        () if api && insecure => Err((
            API_KEY,
            api_line,
            "only one of insecure_bootstrap or trust_bundle_spiffe_workload_api can be specified, \
             not both",
        )),
        () if api && url => Err((
            API_KEY,
            api_line,
            "only one of trust_bundle_url or trust_bundle_spiffe_workload_api can be specified, \
             not both",
        )),
        () if api && path => Err((
            API_KEY,
            api_line,
            "only one of trust_bundle_path or trust_bundle_spiffe_workload_api can be specified, \
             not both",
        )),
        () if api && socket => Err((
            API_KEY,
            api_line,
            "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api",
        )),
        () if insecure && url && path => insecure_key(
            "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be \
             specified, not the three options",
        ),
        () if insecure && url => insecure_key(
            "only one of insecure_bootstrap or trust_bundle_url can be specified, not both",
        ),
        () if insecure && path => insecure_key(
            "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
        ),
        () if !insecure && !path && !url && !api => Err((
            "agent",
            None,
            "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be \
             configured unless insecure_bootstrap is set",
        )),
        () if url && path => Err((
            URL_KEY,
            agent.trust_bundle_url.line(),
            "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
        )),
        () => Ok(()),
    }
}

fn bundle_url(text: &str, over_socket: bool) -> Result<(), String> {
    let url =
        url::parse(text).map_err(|error| format!("unable to parse trust bundle URL: {error}"))?;
    if !over_socket {
        return match url.scheme.as_str() {
            "https" => Ok(()),
            _ => Err("trust bundle URL must start with https://".to_owned()),
        };
    }
    if url.scheme != "http" {
        return Err("trust bundle URL must start with http:// when used with trust bundle unix \
                    socket"
            .to_owned());
    }
    for prefix in ["spiffe-", "spire-"] {
        if url.query_names().any(|name| name.starts_with(prefix)) {
            return Err(format!("trust_bundle_url query params can not start with {prefix}"));
        }
    }
    Ok(())
}

/// The rules of the SPIFFE Workload Endpoint standard, section 4.
fn workload_api_address(text: &str) -> Result<(), String> {
    let url = url::parse(text)
        .map_err(|error| format!("workload endpoint socket is not a valid URI: {error}"))?;
    let what = match url.scheme.as_str() {
        "tcp" => return tcp_address(&url),
        "unix" => "workload endpoint unix socket URI must not",
        _ => {
            return Err(
                "workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme".to_owned()
            );
        }
    };
    let wrong = match &url {
        url if !url.opaque.is_empty() => "be opaque",
        url if url.user.is_some() => "include user info",
        url if url.host.is_empty() && url.path.is_empty() => {
            return Err("workload endpoint unix socket URI must include a path".to_owned());
        }
        url if !url.query.is_empty() => "include query values",
        url if !url.fragment.is_empty() => "include a fragment",
        _ => return Ok(()),
    };
    Err(format!("{what} {wrong}"))
}

fn tcp_address(url: &Url<'_>) -> Result<(), String> {
    let what = "workload endpoint tcp socket URI";
    let wrong = match url {
        url if !url.opaque.is_empty() => "must not be opaque",
        url if url.user.is_some() => "must not include user info",
        url if url.host.is_empty() => "must include a host",
        url if !url.path.is_empty() => "must not include a path",
        url if !url.query.is_empty() => "must not include query values",
        url if !url.fragment.is_empty() => "must not include a fragment",
        url if url.hostname().parse::<IpAddr>().is_err() => "host component must be an IP:port",
        url if url.port().is_empty() => "host component must include a port",
        _ => return Ok(()),
    };
    Err(format!("{what} {wrong}"))
}
