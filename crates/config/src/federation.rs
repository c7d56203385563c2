//! `server.federation`: where the own bundle is offered, and whose bundles are followed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use steeple_hcl::{Block, Located};
use steeple_spiffe::{SpiffeId, TrustDomain};

use crate::{
    checks::{Checker, on, quote, set, shorten},
    problem::NoticeKind,
    raw::server::{Acme, BundleEndpoint, EndpointProfile, FederatesWith, Federation, PeerProfile},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

/// The refresh hint that is offered when none is configured (SF-03).
const REFRESH_HINT: Duration = Duration::from_secs(5 * 60);

/// `server.federation`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederationConfig {
    /// Where the own bundle is offered; nowhere when unset.
    pub bundle_endpoint: Option<BundleEndpointConfig>,
    /// The trust domains whose bundles are followed whatever the datastore says.
    pub federates_with: BTreeMap<TrustDomain, FederatesWithConfig>,
}

/// `server.federation.bundle_endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpointConfig {
    /// The address to listen on; all of them when unset.
    pub address: Option<IpAddr>,
    /// The port; any free one when zero.
    pub port: u16,
    /// How often others are asked to come back.
    pub refresh_hint: Duration,
    /// What the endpoint proves to be.
    pub profile: EndpointProfileConfig,
}

/// What a bundle endpoint proves to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfileConfig {
    /// The server, by its own SVID.
    HttpsSpiffe,
    /// A web server, by a certificate that an ACME server issues.
    Acme(AcmeConfig),
    /// A web server, by a certificate from files.
    ServingCertFile {
        /// The chain, PEM, leaf first.
        cert: PathBuf,
        /// The key of the leaf, PEM.
        key: PathBuf,
        /// Between two looks at the files.
        sync_interval: Duration,
    },
}

/// `acme`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The ACME server's directory; that of Let's Encrypt when unset.
    pub directory_url: Option<String>,
    /// The name to certify, and the only one that is answered to.
    pub domain_name: String,
    /// The contact of the account.
    pub email: String,
    /// Whether the ACME server's terms are agreed to.
    pub tos_accepted: bool,
}

/// `federates_with "<trust domain>"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatesWithConfig {
    /// Where the bundle is offered; `https`.
    pub bundle_endpoint_url: String,
    /// How the endpoint is authenticated.
    pub profile: FederatesWithProfile,
}

/// How another trust domain's endpoint is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FederatesWithProfile {
    /// By web PKI.
    HttpsWeb,
    /// By its SVID, which must be this.
    HttpsSpiffe(SpiffeId),
}

pub(crate) fn build(checker: &mut Checker, raw: &Located<Federation>) -> FederationConfig {
    let Some(federation) = raw.as_ref() else { return FederationConfig::default() };
    let bundle_endpoint = federation.bundle_endpoint.as_ref().map(|endpoint| {
        let line = federation.bundle_endpoint.line();
        bundle_endpoint(checker, endpoint, line)
    });
    let mut peers = BTreeMap::new();
    for (domain, peer) in federation.federates_with.value.iter().flatten() {
        let line = federation.federates_with.line();
        if let Some((domain, peer)) = federates_with(checker, domain, peer, line) {
            peers.insert(domain, peer);
        }
    }
    FederationConfig { bundle_endpoint, federates_with: peers }
}

fn bundle_endpoint(
    checker: &mut Checker,
    endpoint: &BundleEndpoint,
    line: Option<usize>,
) -> BundleEndpointConfig {
    const KEY: &str = "server.federation.bundle_endpoint";
    let refresh_hint = refresh_hint(checker, endpoint);
    let profile = match (endpoint.acme.as_ref(), endpoint.profile.as_ref()) {
        (Some(_), Some(_)) => {
            let text = "either bundle endpoint 'acme' or 'profile' can be set, but not both";
            checker.problem(endpoint.acme.line(), KEY, text);
            EndpointProfileConfig::HttpsSpiffe
        }
        (Some(acme), None) => {
            direct_acme(checker, acme, endpoint.acme.line());
            let text = "ACME configuration within the bundle_endpoint is deprecated. Please use \
                        ACME configuration as part of the https_web profile instead.";
            checker.note(NoticeKind::Deprecated, endpoint.acme.line(), KEY, text);
            EndpointProfileConfig::Acme(acme_config(acme))
        }
        (None, None) => {
            let text = "Bundle endpoint is configured but has no profile set, using https_spiffe \
                        as default; please configure a profile explicitly. This will be fatal in \
                        a future release.";
            checker.note(NoticeKind::Deprecated, line, KEY, text);
            EndpointProfileConfig::HttpsSpiffe
        }
        (None, Some(profile)) => {
            let key = format!("{KEY}.profile");
            endpoint_profile(checker, profile, &key).unwrap_or_else(|text| {
                checker.problem(endpoint.profile.line(), &key, text);
                EndpointProfileConfig::HttpsSpiffe
            })
        }
    };
    BundleEndpointConfig {
        address: address(checker, endpoint),
        port: port(checker, endpoint),
        refresh_hint,
        profile,
    }
}

/// As SPIRE, listens on all addresses when what is written is none, but says so.
fn address(checker: &mut Checker, endpoint: &BundleEndpoint) -> Option<IpAddr> {
    let text = set(&endpoint.address)?;
    let address = text.parse().ok();
    if address.is_none() {
        let text = format!(
            "Bundle endpoint address {} is not an IP address; listening on all addresses",
            quote(text)
        );
        let key = "server.federation.bundle_endpoint.address";
        checker.note(NoticeKind::Warning, endpoint.address.line(), key, text);
    }
    address
}

fn port(checker: &mut Checker, endpoint: &BundleEndpoint) -> u16 {
    let port = endpoint.port.value.unwrap_or_default();
    u16::try_from(port).unwrap_or_else(|_| {
        let key = "server.federation.bundle_endpoint.port";
        checker.problem(endpoint.port.line(), key, format!("address {port}: invalid port"));
        0
    })
}

fn refresh_hint(checker: &mut Checker, endpoint: &BundleEndpoint) -> Duration {
    let key = "server.federation.bundle_endpoint.refresh_hint";
    let hint = checker.duration(key, &endpoint.refresh_hint, |text| {
        format!("could not parse refresh_hint {text}")
    });
    let Some(hint) = hint else { return REFRESH_HINT };
    let line = endpoint.refresh_hint.line();
    if hint >= DAY {
        let text = "Bundle endpoint refresh hint set to a high value. To cover the case of \
                    unscheduled trust bundle updates, it's recommended to have a smaller \
                    value, e.g. 5m";
        checker.note(NoticeKind::Warning, line, key, text);
    }
    if hint < MINUTE {
        let text = "Bundle endpoint refresh hint set too low. SPIRE will not refresh more \
                    often than 1 minute";
        checker.note(NoticeKind::Warning, line, key, text);
    }
    hint
}

fn acme_config(acme: &Acme) -> AcmeConfig {
    let text = |value| set(value).unwrap_or_default().to_owned();
    AcmeConfig {
        directory_url: set(&acme.directory_url).map(str::to_owned),
        domain_name: text(&acme.domain_name),
        email: text(&acme.email),
        tos_accepted: on(&acme.tos_accepted),
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

fn endpoint_profile(
    checker: &mut Checker,
    block: &Block,
    key: &str,
) -> Result<EndpointProfileConfig, String> {
    let profile: EndpointProfile = one_profile(block)?;
    let Some(web) = profile.https_web.as_ref() else {
        return match profile.https_spiffe.is_present() {
            true => Ok(EndpointProfileConfig::HttpsSpiffe),
            false => Err("unknown bundle endpoint profile configured; current supported profiles \
                          are \"https_spiffe\" and 'https_web\""
                .to_owned()),
        };
    };
    // With both, SPIRE takes ACME.
    if let Some(acme) = web.acme.as_ref() {
        return Ok(EndpointProfileConfig::Acme(acme_config(acme)));
    }
    let Some(files) = web.serving_cert_file.as_ref() else {
        return Err("malformed https_web profile configuration: 'acme' or 'serving_cert_file' is \
                    required"
            .to_owned());
    };
    let key = format!("{key}.https_web.serving_cert_file");
    let interval =
        checker.duration(&format!("{key}.file_sync_interval"), &files.file_sync_interval, |_| {
            "could not parse file_sync_interval".to_owned()
        });
    let mut path = |name: &str, value: &Located<String>| {
        if set(value).is_none() {
            let line = web.serving_cert_file.line();
            checker.problem(line, &format!("{key}.{name}"), format!("{name} must be configured"));
        }
        PathBuf::from(set(value).unwrap_or_default())
    };
    Ok(EndpointProfileConfig::ServingCertFile {
        cert: path("cert_file_path", &files.cert_file_path),
        key: path("key_file_path", &files.key_file_path),
        sync_interval: interval.filter(|it| !it.is_zero()).unwrap_or(HOUR),
    })
}

fn federates_with(
    checker: &mut Checker,
    domain: &str,
    peer: &FederatesWith,
    line: Option<usize>,
) -> Option<(TrustDomain, FederatesWithConfig)> {
    let shown = shorten(domain);
    let key = format!("server.federation.federates_with.{shown}");
    let line = peer.bundle_endpoint_url.line().or(line);
    let of_key = format!("federation.federates_with[\"{shown}\"].bundle_endpoint_url");
    let url = set(&peer.bundle_endpoint_url);
    match url {
        None => checker.problem(line, &key, format!("{of_key} must be configured")),
        Some(url) if !url.to_lowercase().starts_with("https://") => {
            let url = quote(url);
            let text = format!("{of_key} must use the HTTPS protocol; URL found: {url}");
            checker.problem(line, &key, text);
        }
        Some(_) => {}
    }
    let trust_domain = TrustDomain::from_name_or_id(domain)
        .map_err(|error| checker.problem(line, &key, error.to_string()))
        .ok();
    let Some(block) = peer.bundle_endpoint_profile.as_ref() else {
        let text = format!(
            "federation configuration for trust domain {}: missing bundle endpoint configuration",
            quote(domain)
        );
        checker.problem(line, &key, text);
        return None;
    };
    let profile = peer_profile(block).map_err(|why| {
        let text = format!(
            "error parsing federation relationship for trust domain {}: {why}",
            quote(domain)
        );
        checker.problem(peer.bundle_endpoint_profile.line(), &key, text);
    });
    let bundle_endpoint_url = url?.to_owned();
    Some((trust_domain?, FederatesWithConfig { bundle_endpoint_url, profile: profile.ok()? }))
}

fn peer_profile(block: &Block) -> Result<FederatesWithProfile, String> {
    let profile: PeerProfile = one_profile(block)?;
    if profile.https_web.is_present() {
        return Ok(FederatesWithProfile::HttpsWeb);
    }
    let Some(spiffe) = profile.https_spiffe.as_ref() else {
        return Err("no bundle endpoint profile defined; current supported profiles are \
                    \"https_spiffe\" and 'https_web\""
            .to_owned());
    };
    let id = set(&spiffe.endpoint_spiffe_id).unwrap_or_default();
    SpiffeId::parse(id)
        .map(FederatesWithProfile::HttpsSpiffe)
        .map_err(|error| format!("could not get endpoint SPIFFE ID: {error}"))
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

#[cfg(test)]
mod tests;
