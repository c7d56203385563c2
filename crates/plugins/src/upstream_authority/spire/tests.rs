use steeple_spiffe::TrustDomain;

use super::*;

fn configured(text: &str) -> Result<(), String> {
    let block = steeple_hcl::parse(text.as_bytes()).unwrap();
    let host = HostContext::new(TrustDomain::parse("example.org").unwrap());
    from_config(Some(&block), &host).map(drop).map_err(|error| error.to_string())
}

#[test]
fn settings_are_checked_before_anybody_is_asked() {
    let whole = r#"server_address = "up" server_port = "8081" workload_api_socket = "/tmp/a""#;
    let lines = |text: &str| text.replace("\" ", "\"\n");
    assert_eq!(configured(&lines(whole)), Ok(()));
    assert_eq!(configured(&lines(whole).replace("\"8081\"", "8081")), Ok(()));
    for (text, expected) in [
        ("", "server_address is required"),
        (r#"server_address = "up""#, "server_port is required"),
        (r#"server_address = "up" server_port = "1""#, "workload_api_socket is required"),
        (
            r#"server_address = "up" server_port = "x" workload_api_socket = "/tmp/a""#,
            "server_port is not the number of a port",
        ),
        (
            r#"server_address = "u p" server_port = "1" workload_api_socket = "/tmp/a""#,
            "invalid server address \"u p\"",
        ),
    ] {
        assert_eq!(
            configured(&lines(text)),
            Err(format!("upstreamauthority(spire): {expected}")),
            "{text}"
        );
    }
}

#[test]
fn authorities_that_cannot_be_read_are_refused_as_a_whole() {
    use steeple_proto::spire::api::types;
    let broken = types::X509Certificate { asn1: (&b"what"[..]).into(), tainted: false };
    let bundle = types::Bundle { x509_authorities: vec![broken], ..Default::default() };
    assert!(convert::bundle(&bundle).unwrap_err().message.contains("X.509 authorities"));
    let nameless = types::JwtKey::default();
    let error = convert::jwt_keys(&[nameless]).unwrap_err();
    assert!(error.message.contains("missing key ID for JWT key"), "{}", error.message);
    let many = vec![types::JwtKey::default(); 5000];
    assert!(convert::jwt_keys(&many).unwrap_err().message.contains("5000 authorities"));
}
