//! `server.federation`: checked as SPIRE does, though nothing of it runs yet.

use std::time::Duration;

use steeple_hcl::{Block, Located};
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::{
    checks::{Checker, quote, set, shorten},
    problem::NoticeKind,
    raw::server::{Acme, BundleEndpoint, EndpointProfile, FederatesWith, Federation, PeerProfile},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn check(checker: &mut Checker, raw: &Located<Federation>) {
    let Some(federation) = raw.as_ref() else { return };
    checker.not_yet("server.federation.bundle_endpoint", &federation.bundle_endpoint);
    if let Some(endpoint) = federation.bundle_endpoint.as_ref() {
        let line = federation.bundle_endpoint.line();
        bundle_endpoint(checker, endpoint, line);
    }
    checker.not_yet("server.federation.federates_with", &federation.federates_with);
    for (domain, peer) in federation.federates_with.value.iter().flatten() {
        federates_with(checker, domain, peer, federation.federates_with.line());
    }
}

fn bundle_endpoint(checker: &mut Checker, endpoint: &BundleEndpoint, line: Option<usize>) {
    const KEY: &str = "server.federation.bundle_endpoint";
    if let Some(acme) = endpoint.acme.as_ref() {
        direct_acme(checker, acme, endpoint.acme.line());
    }
    let key = format!("{KEY}.refresh_hint");
    let hint = checker.duration(&key, &endpoint.refresh_hint, |text| {
        format!("could not parse refresh_hint {text}")
    });
    if let Some(hint) = hint {
        let line = endpoint.refresh_hint.line();
        if hint >= DAY {
            let text = "Bundle endpoint refresh hint set to a high value. To cover the case of \
                        unscheduled trust bundle updates, it's recommended to have a smaller \
                        value, e.g. 5m";
            checker.note(NoticeKind::Warning, line, &key, text);
        }
        if hint < MINUTE {
            let text = "Bundle endpoint refresh hint set too low. SPIRE will not refresh more \
                        often than 1 minute";
            checker.note(NoticeKind::Warning, line, &key, text);
        }
    }

    match (endpoint.acme.is_present(), endpoint.profile.as_ref()) {
        (true, Some(_)) => {
            let text = "either bundle endpoint 'acme' or 'profile' can be set, but not both";
            checker.problem(endpoint.acme.line(), KEY, text);
        }
        (true, None) => {
            let text = "ACME configuration within the bundle_endpoint is deprecated. Please use \
                        ACME configuration as part of the https_web profile instead.";
            checker.note(NoticeKind::Deprecated, endpoint.acme.line(), KEY, text);
        }
        (false, None) => {
            let text = "Bundle endpoint is configured but has no profile set, using https_spiffe \
                        as default; please configure a profile explicitly. This will be fatal in \
                        a future release.";
            checker.note(NoticeKind::Deprecated, line, KEY, text);
        }
        (false, Some(profile)) => {
            let key = format!("{KEY}.profile");
            let line = endpoint.profile.line();
            if let Err(text) = endpoint_profile(checker, profile, &key) {
                checker.problem(line, &key, text);
            }
        }
    }
}

fn direct_acme(checker: &mut Checker, acme: &Acme, line: Option<usize>) {
    for (name, value) in [("domain_name", &acme.domain_name), ("email", &acme.email)] {
        if set(value).is_none() {
            let key = format!("server.federation.bundle_endpoint.acme.{name}");
            let text = format!("federation.bundle_endpoint.acme.{name} must be configured");
            checker.problem(value.line().or(line), &key, text);
        }
    }
}

fn endpoint_profile(checker: &mut Checker, block: &Block, key: &str) -> Result<(), String> {
    let profile: EndpointProfile = one_profile(block)?;
    if let Some(web) = profile.https_web.as_ref() {
        if let Some(files) = web.serving_cert_file.as_ref().filter(|_| !web.acme.is_present()) {
            let key = format!("{key}.https_web.serving_cert_file");
            checker.duration(
                &format!("{key}.file_sync_interval"),
                &files.file_sync_interval,
                |_| "could not parse file_sync_interval".to_owned(),
            );
            let paths = [
                ("cert_file_path", &files.cert_file_path),
                ("key_file_path", &files.key_file_path),
            ];
            for (name, value) in paths {
                if set(value).is_none() {
                    let line = web.serving_cert_file.line();
                    checker.problem(
                        line,
                        &format!("{key}.{name}"),
                        format!("{name} must be configured"),
                    );
                }
            }
        } else if !web.acme.is_present() {
            return Err("malformed https_web profile configuration: 'acme' or \
                        'serving_cert_file' is required"
                .to_owned());
        }
        return Ok(());
    }
    match profile.https_spiffe.is_present() {
        true => Ok(()),
        false => Err("unknown bundle endpoint profile configured; current supported profiles are \
                      \"https_spiffe\" and 'https_web\""
            .to_owned()),
    }
}

fn federates_with(checker: &mut Checker, domain: &str, peer: &FederatesWith, line: Option<usize>) {
    let shown = shorten(domain);
    let key = format!("server.federation.federates_with.{shown}");
    let line = peer.bundle_endpoint_url.line().or(line);
    let of_key = format!("federation.federates_with[\"{shown}\"].bundle_endpoint_url");
    match set(&peer.bundle_endpoint_url) {
        None => checker.problem(line, &key, format!("{of_key} must be configured")),
        Some(url) if !url.to_lowercase().starts_with("https://") => {
            let url = quote(url);
            let text = format!("{of_key} must use the HTTPS protocol; URL found: {url}");
            checker.problem(line, &key, text);
        }
        Some(_) => {}
    }
    if let Err(error) = TrustDomain::from_name_or_id(domain) {
        checker.problem(line, &key, error.to_string());
    }
    let Some(block) = peer.bundle_endpoint_profile.as_ref() else {
        let text = format!(
            "federation configuration for trust domain {}: missing bundle endpoint configuration",
            quote(domain)
        );
        checker.problem(line, &key, text);
        return;
    };
    if let Err(why) = peer_profile(block) {
        let text = format!(
            "error parsing federation relationship for trust domain {}: {why}",
            quote(domain)
        );
        checker.problem(peer.bundle_endpoint_profile.line(), &key, text);
    }
}

fn peer_profile(block: &Block) -> Result<(), String> {
    let profile: PeerProfile = one_profile(block)?;
    if profile.https_web.is_present() {
        return Ok(());
    }
    let Some(spiffe) = profile.https_spiffe.as_ref() else {
        return Err("no bundle endpoint profile defined; current supported profiles are \
                    \"https_spiffe\" and 'https_web\""
            .to_owned());
    };
    let id = set(&spiffe.endpoint_spiffe_id).unwrap_or_default();
    match SpiffeId::parse(id) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("could not get endpoint SPIFFE ID: {error}")),
    }
}

fn one_profile<T: serde::de::DeserializeOwned>(block: &Block) -> Result<T, String> {
    if !block.is_body() {
        return Err("malformed configuration".to_owned());
    }
    if block.len() != 1 {
        return Err("exactly one bundle endpoint profile is expected".to_owned());
    }
    let decoded =
        block.decode().map_err(|error| format!("failed to decode configuration: {error}"))?;
    Ok(decoded.value)
}
