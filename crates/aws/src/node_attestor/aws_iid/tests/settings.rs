//! Settings that are wrong, in upstream's words.

use steeple_plugin::Code;

use super::super::config::{agent, server};
use super::*;

fn refusal(settings: &str, variables: &[(&str, &str)]) -> Option<String> {
    let block = Block::parse(settings).unwrap();
    let environment = Environment::of(variables.iter().copied());
    let error = server(Some(&block), &environment).err()?;
    assert_eq!(error.code, Code::InvalidArgument);
    Some(error.message.strip_prefix("nodeattestor(aws_iid): ").unwrap().to_owned())
}

#[test]
fn settings_that_upstream_takes_are_taken() {
    for settings in [
        "",
        "unknown = 1",
        "partition = \"aws-us-gov\"",
        "access_key_id = \"A\"\nsecret_access_key = \"B\"",
        r#"verify_organization = { management_account_id = "d" assume_org_role = "r" }"#,
        r#"verify_organization = { management_account_id = "d" assume_org_role = "r"
           org_account_map_ttl = "1m30s" }"#,
        "validate_eks_cluster_membership = {}",
        r#"validate_eks_cluster_membership = { eks_cluster_names = ["a", "b"] }"#,
    ] {
        assert_eq!(refusal(settings, &[]), None, "{settings}");
    }
    assert!(agent(None).unwrap().endpoint.is_none());
    let block = Block::parse(r#"ec2_metadata_endpoint = "http://h/latest""#).unwrap();
    assert_eq!(agent(Some(&block)).unwrap().endpoint.as_deref(), Some("http://h/latest"));
}

#[test]
fn settings_that_upstream_refuses_are_refused_in_its_words() {
    let org = "verify_organization = ";
    let nested = "rpc error: code = InvalidArgument desc = ";
    for (settings, expected) in [
        (
            r#"access_key_id = "A""#.to_owned(),
            format!("{nested}configuration missing secret access key, but has access key id"),
        ),
        (
            r#"secret_access_key = "B""#.to_owned(),
            format!("{nested}configuration missing access key id, but has secret access key"),
        ),
        (
            r#"agent_path_template = "/{{ .InstanceID ""#.to_owned(),
            "failed to parse agent svid template: \"/{{ .InstanceID \"".to_owned(),
        ),
        (
            r#"partition = "mars""#.to_owned(),
            "invalid partition \"mars\", must be one of: [aws aws-cn aws-us-gov]".to_owned(),
        ),
        (
            format!("{org}{{}}"),
            format!(
                "{nested}please ensure that \"management_account_id\" & \"assume_org_role\" are \
                 present inside block or remove the block: \"verify_organization\" for feature \
                 node attestation using account id verification"
            ),
        ),
        (
            format!(
                r#"{org}{{ management_account_id = "d" assume_org_role = "r"
                org_account_map_ttl = "2" }}"#
            ),
            format!(
                "{nested}please ensure that \"org_account_map_ttl\" if configured, it should be \
                 in duration and is suffixed with required 'm' for time duration in minute ex. \
                 '5m'. Otherwise, remove the: \"org_account_map_ttl\", in the block: \
                 \"verify_organization\". Default TTL will be: \"3m\""
            ),
        ),
        (
            format!(
                r#"{org}{{ management_account_id = "d" assume_org_role = "r"
                org_account_map_ttl = "30s" }}"#
            ),
            format!(
                "{nested}please ensure that \"org_account_map_ttl\" if configured, it should be \
                 greater than or equal to \"1m\". Otherwise remove the: \"org_account_map_ttl\", \
                 in the block: \"verify_organization\". Default TTL will be: \"3m\""
            ),
        ),
        (
            format!(r#"{org}{{ management_account_id = "d" account_list_file = "/x" }}"#),
            format!(
                "{nested}\"account_list_file\" is mutually exclusive with \
                 \"management_account_id\" and \"assume_org_role\" in the block: \
                 \"verify_organization\""
            ),
        ),
        (
            format!(r#"{org}{{ account_list_file = "/nowhere/x.json" }}"#),
            format!(
                "{nested}invalid \"account_list_file\" in the block: \"verify_organization\": \
                 unable to read account list file: open /nowhere/x.json: no such file or directory"
            ),
        ),
    ] {
        assert_eq!(refusal(&settings, &[]), Some(expected), "{settings}");
    }
    let malformed = refusal("skip_block_device = \"perhaps\"", &[]).unwrap();
    assert!(malformed.starts_with("unable to decode configuration: "), "{malformed}");
}

#[test]
fn account_lists_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.json");
    for (text, expected) in [
        ("not json", "expected a JSON array of account IDs"),
        (r#"{"a": 1}"#, "expected a JSON array of account IDs"),
        (r#"["1234"]"#, "invalid account id \"1234\" in account list file"),
    ] {
        std::fs::write(&path, text).unwrap();
        let settings =
            format!("verify_organization = {{ account_list_file = \"{}\" }}", path.display());
        let refusal = refusal(&settings, &[]).unwrap();
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn keys_are_the_settings_or_the_environments() {
    let both = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "B")];
    assert_eq!(refusal("", &both), None);
    let half = refusal("", &both[..1]).unwrap();
    assert!(half.contains("configuration missing secret access key"), "{half}");
    assert_eq!(refusal("secret_access_key = \"C\"", &both[..1]), None);
    let with_token = [both[0], both[1], ("AWS_SESSION_TOKEN", "T")];
    let keys = server(None, &Environment::of(with_token)).unwrap().keys.unwrap();
    assert_eq!(keys.token.unwrap().expose(), "T");
    let own = Block::parse("access_key_id = \"C\"\nsecret_access_key = \"D\"").unwrap();
    let keys = server(Some(&own), &Environment::of(with_token)).unwrap().keys.unwrap();
    assert!(keys.token.is_none() && keys.key_id == "C", "a token of other keys is not theirs");
}

#[test]
fn certificates_are_added_for_regions_that_are_not_known_and_for_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region.pem");
    std::fs::write(&path, DocumentSigner::new().certificate.pem()).unwrap();
    let settings = |region: &str, path: &std::path::Path| {
        format!("region_certificates = {{ \"{region}\" = \"{}\" }}", path.display())
    };
    let block = Block::parse(&settings("xx-new-1", &path)).unwrap();
    let made = server(Some(&block), &Environment::of([])).unwrap();
    assert!(made.certificates.of("xx-new-1").is_some());
    let replaced = refusal(&settings("us-east-1", &path), &[]).unwrap();
    assert!(replaced.ends_with("is known and cannot be replaced"), "{replaced}");
    let nowhere = refusal(&settings("xx-new-1", &folder.path().join("none")), &[]).unwrap();
    assert!(nowhere.contains("no such file"), "{nowhere}");
    let name = refusal(&settings("../x", &path), &[]).unwrap();
    assert!(name.ends_with("that is no name of a region"), "{name}");
}
