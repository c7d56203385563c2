use super::*;

fn read(text: &str) -> Result<Config, String> {
    let data = Block::parse(text).unwrap();
    Config::read(Some(&data), &|_| None).map_err(|error| {
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.strip_prefix("nodeattestor(azure_imds): ").unwrap().to_owned()
    })
}

fn tenant(settings: &str) -> String {
    format!(r#"tenants = {{ "T" = {{ {settings} }} }}"#)
}

#[test]
fn a_tenant_has_one_way_to_prove_who_we_are() {
    let secret = r#"secret_auth = { app_id = "A", app_secret = "S" }"#;
    let token = r#"token_auth { app_id = "A" token_path = "/token" }"#;
    let source = |settings: &str| read(&tenant(settings)).unwrap().tenants["T"].credential.clone();
    assert!(matches!(source(secret), Source::Secret { app, .. } if app == "A"));
    assert!(matches!(source(token), Source::TokenFile { tenant, .. } if tenant == "T"));
    assert!(matches!(source(""), Source::ManagedIdentity { .. }));
    assert!(matches!(source(r#"auth_type = "x""#), Source::ManagedIdentity { .. }));
    for (settings, why) in [
        (
            format!("{secret}\n{token}"),
            "only one of secret_auth or token_auth may be specified in the config",
        ),
        (token.replace("/token", ""), "missing token file path"),
        (token.replace('A', ""), "missing app id"),
        (secret.replace('A', ""), "missing app id"),
        (secret.replace("\"S\"", "\"\""), "missing app secret"),
        (
            r#"restrict_to_subscriptions = ["a", " "]"#.to_owned(),
            "restrict_to_subscriptions entries must be non-empty",
        ),
    ] {
        let refused = read(&tenant(&settings)).err().unwrap();
        assert_eq!(refused, format!("misconfigured tenant \"T\": {why}"), "{settings}");
    }
}

#[test]
fn what_is_wrong_is_said_as_spire_says_it() {
    for (text, why) in [
        (String::new(), "configuration must have at least one tenant"),
        (
            tenant("") + "\nagent_path_template = \"{{ .X \"",
            "failed to parse agent path template: \"{{ .X \"",
        ),
        (
            tenant("") + "\nallowed_metadata_domains = [\"a\", \"\"]",
            "allowed_metadata_domains entries must be non-empty",
        ),
    ] {
        assert_eq!(read(&text).err().unwrap(), why);
    }
    assert!(read("tenants = 7").err().unwrap().starts_with("unable to decode configuration: "));
    assert_eq!(read(&tenant("")).unwrap().domains, ["metadata.azure.com"]);
}

#[test]
fn further_roots_are_authorities() {
    let built_in = read(&tenant("")).unwrap().roots.len();
    assert_eq!(built_in, 4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle.pem");
    let with = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read(&(tenant("") + &format!("\ntrust_bundle_path = {path:?}")))
    };
    let azure = super::super::tests::pki::Azure::new();
    let (root, leaf) = (azure.root.certificate.pem(), azure.service.certificate.pem());
    assert_eq!(with(&root).unwrap().roots.len(), built_in + 1);
    let refused = with(&format!("{root}{leaf}")).err().unwrap();
    let expected = format!(
        "trust bundle {path:?} contains a non-CA certificate (subject \"CN=metadata.azure.com\")"
    );
    assert_eq!(refused, expected);
    let unloaded = format!("unable to load trust bundle {path:?}: ");
    assert!(with("").err().unwrap().starts_with(&unloaded));
    std::fs::remove_file(&path).unwrap();
    let refused = read(&(tenant("") + &format!("\ntrust_bundle_path = {path:?}")));
    assert!(refused.err().unwrap().starts_with(&unloaded));
}
