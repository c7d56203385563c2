use std::fs;

use super::*;
use crate::{Notice, Problems, ServerFlags, load_server};

fn load(block: &str) -> Result<(FederationConfig, Vec<Notice>), Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.conf");
    let plugins = "plugins { DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" \
                   connection_string = \"x\" } } KeyManager \"memory\" {} }";
    let server = format!("trust_domain = \"home.test\" data_dir = \"d\"\nfederation {{ {block} }}");
    fs::write(&path, format!("server {{ {server} }}\n{plugins}")).unwrap();
    let loaded = load_server(Some(&path), &ServerFlags::default(), false, &|_| None);
    loaded.map(|(config, notices)| (config.federation, notices))
}

fn problems(block: &str) -> Vec<String> {
    load(block).unwrap_err().iter().map(|problem| problem.text.clone()).collect()
}

fn endpoint(block: &str) -> (BundleEndpointConfig, Vec<Notice>) {
    let (federation, notices) = load(&format!("bundle_endpoint {{ {block} }}")).unwrap();
    (federation.bundle_endpoint.unwrap(), notices)
}

#[test]
fn without_the_block_nothing_is_offered_or_followed() {
    let (federation, notices) = load("").unwrap();
    assert_eq!((federation, notices.len()), (FederationConfig::default(), 0));
}

#[test]
fn an_endpoint_without_a_profile_is_spiffe_and_deprecated() {
    let (endpoint, notices) = endpoint("port = 8443");
    assert_eq!(endpoint.profile, EndpointProfileConfig::HttpsSpiffe);
    assert_eq!(
        (endpoint.address, endpoint.port, endpoint.refresh_hint),
        (None, 8443, REFRESH_HINT)
    );
    assert_eq!(notices.iter().map(|it| it.kind).collect::<Vec<_>>(), [NoticeKind::Deprecated]);
}

#[test]
fn each_profile_of_the_endpoint_is_read() {
    let (spiffe, notices) = endpoint(
        "address = \"127.0.0.1\" port = 1 refresh_hint = \"10m\" profile \"https_spiffe\" {}",
    );
    assert_eq!(spiffe.address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(spiffe.refresh_hint, Duration::from_secs(600));
    assert_eq!((spiffe.profile, notices.len()), (EndpointProfileConfig::HttpsSpiffe, 0));

    let (files, _) = endpoint(
        "profile \"https_web\" { serving_cert_file { cert_file_path = \"c\" key_file_path = \"k\" } }",
    );
    let (cert, key) = ("c".into(), "k".into());
    let wanted = EndpointProfileConfig::ServingCertFile { cert, key, sync_interval: HOUR };
    assert_eq!(files.profile, wanted);

    let acme = "acme { domain_name = \"d\" email = \"e\" tos_accepted = true }";
    let wanted = EndpointProfileConfig::Acme(AcmeConfig {
        directory_url: None,
        domain_name: "d".to_owned(),
        email: "e".to_owned(),
        tos_accepted: true,
    });
    let (web, notices) = endpoint(&format!("profile \"https_web\" {{ {acme} }}"));
    assert_eq!((&web.profile, notices.len()), (&wanted, 0));
    let (direct, notices) = endpoint(acme);
    assert_eq!(direct.profile, wanted);
    assert!(notices[0].text.starts_with("ACME configuration within the bundle_endpoint is"));
}

#[test]
fn what_is_wrong_with_an_endpoint_is_said_in_spires_words() {
    let of = |block: &str| problems(&format!("bundle_endpoint {{ {block} }}"));
    assert_eq!(
        of("acme { domain_name = \"d\" email = \"e\" } profile \"https_spiffe\" {}"),
        ["either bundle endpoint 'acme' or 'profile' can be set, but not both"]
    );
    assert_eq!(
        of("acme {}"),
        [
            "federation.bundle_endpoint.acme.domain_name must be configured",
            "federation.bundle_endpoint.acme.email must be configured"
        ]
    );
    assert_eq!(
        of("profile \"https_spiffe\" {} profile \"https_web\" {}"),
        ["exactly one bundle endpoint profile is expected"]
    );
    assert_eq!(
        of("profile \"https_web\" {}"),
        ["malformed https_web profile configuration: 'acme' or 'serving_cert_file' is required"]
    );
    assert_eq!(of("port = 70000"), ["address 70000: invalid port"]);
    assert!(of("refresh_hint = \"soon\"")[0].starts_with("could not parse refresh_hint \"soon\""));
}

#[test]
fn an_address_that_is_none_listens_on_all_and_says_so() {
    let (endpoint, notices) = endpoint("address = \"localhost\" profile \"https_spiffe\" {}");
    assert_eq!(endpoint.address, None);
    assert!(notices[0].text.contains("\"localhost\" is not an IP address"));
}

#[test]
fn peers_are_read_by_both_profiles() {
    let (federation, _) = load(
        "federates_with \"web.test\" { bundle_endpoint_url = \"https://web.test\"
             bundle_endpoint_profile \"https_web\" {} }
         federates_with \"spiffe://spiffe.test\" { bundle_endpoint_url = \"https://1.2.3.4:8443\"
             bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"spiffe://spiffe.test/s\" } }",
    )
    .unwrap();
    let of = |name| &federation.federates_with[&TrustDomain::parse(name).unwrap()];
    assert_eq!(of("web.test").profile, FederatesWithProfile::HttpsWeb);
    let id = SpiffeId::parse("spiffe://spiffe.test/s").unwrap();
    assert_eq!(of("spiffe.test").profile, FederatesWithProfile::HttpsSpiffe(id));
    assert_eq!(of("spiffe.test").bundle_endpoint_url, "https://1.2.3.4:8443");
}

#[test]
fn what_is_wrong_with_a_peer_is_said_in_spires_words() {
    let of = |block: &str| problems(&format!("federates_with \"a.test\" {{ {block} }}"));
    let web = "bundle_endpoint_profile \"https_web\" {}";
    assert_eq!(
        of(web),
        ["federation.federates_with[\"a.test\"].bundle_endpoint_url must be configured"]
    );
    assert_eq!(
        of(&format!("bundle_endpoint_url = \"http://a\" {web}")),
        ["federation.federates_with[\"a.test\"].bundle_endpoint_url must use the HTTPS protocol; \
             URL found: \"http://a\""]
    );
    let url = "bundle_endpoint_url = \"https://a\"";
    assert_eq!(
        of(url),
        [
            "federation configuration for trust domain \"a.test\": missing bundle endpoint configuration"
        ]
    );
    let bad = of(&format!(
        "{url} bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = \"x\" }}"
    ));
    assert!(bad[0].starts_with(
        "error parsing federation relationship for trust domain \"a.test\": could not get endpoint \
         SPIFFE ID: "
    ));
}
