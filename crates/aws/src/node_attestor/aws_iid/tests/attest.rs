//! Documents that hold, and what is looked up for them.

use steeple_plugin::Code;

use super::*;

fn id(path: &str) -> String {
    format!("spiffe://example.org/spire/agent/aws_iid/{path}")
}

#[tokio::test]
async fn an_instance_is_known_by_its_document_and_what_ec2_says() {
    let fixture = Fixture::new("", |_| described(INSTANCE_XML)).await;
    let found = fixture.attest(&fixture.evidence()).await.unwrap();
    assert_eq!(found.agent_id.as_str(), id(&format!("{ACCOUNT}/{REGION}/{INSTANCE}")));
    assert_eq!(found.selector_values, DOCUMENT_SELECTORS);
    assert!(!found.can_reattest && fixture.server.once(&found.agent_id));
    let asked = fixture.cloud.asked();
    assert_eq!(asked.len(), 1);
    for (name, value) in [
        ("Action", "DescribeInstances"),
        ("Version", "2016-11-15"),
        ("InstanceId.1", INSTANCE),
        ("Filter.1.Name", "instance-state-name"),
        ("Filter.1.Value.1", "pending"),
        ("Filter.1.Value.2", "running"),
    ] {
        assert_eq!(asked[0].parameter(name).as_deref(), Some(value), "{name}");
    }
    let signature = asked[0].header("authorization").unwrap();
    let scope = "AWS4-HMAC-SHA256 Credential=AKID/20260101/xx-test-1/ec2/aws4_request, ";
    assert!(signature.starts_with(scope), "{signature}");
}

#[tokio::test]
async fn all_selectors_are_sorted_and_stand_once() {
    let instance = format!(
        "{INSTANCE_XML}\
         <tagSet><item><key>Hostname</key><value>host1</value></item></tagSet>\
         <groupSet><item><groupId>sg-1</groupId><groupName>Test Group</groupName></item>\
         <item><groupId>sg-1</groupId><groupName>Test Group</groupName></item></groupSet>\
         <iamInstanceProfile><arn>arn:aws:iam::1:instance-profile/path/p</arn></iamInstanceProfile>"
    );
    let answer = move |asked: &Asked| match asked.operation().as_str() {
        "GetInstanceProfile" => {
            assert_eq!(asked.parameter("InstanceProfileName").as_deref(), Some("p"));
            assert!(asked.header("authorization").unwrap().contains("/us-east-1/iam/"));
            xml("<GetInstanceProfileResponse><GetInstanceProfileResult><InstanceProfile><Roles>\
                 <member><Arn>role1</Arn></member><member><Arn>role2</Arn></member></Roles>\
                 </InstanceProfile></GetInstanceProfileResult></GetInstanceProfileResponse>")
        }
        _ => described(&instance),
    };
    let fixture = Fixture::new("", answer.clone()).await;
    let found = fixture.attest(&fixture.evidence()).await.unwrap().selector_values;
    let mut expected: Vec<String> = DOCUMENT_SELECTORS.map(str::to_owned).to_vec();
    expected.extend(["sg:id:sg-1", "sg:name:Test Group", "tag:Hostname:host1"].map(str::to_owned));
    let mut with_roles = expected.clone();
    with_roles.extend(["iamrole:role1", "iamrole:role2"].map(str::to_owned));
    with_roles.sort();
    assert_eq!(found, with_roles);

    let without = Fixture::new("disable_instance_profile_selectors = true", answer).await;
    let found = without.attest(&without.evidence()).await.unwrap().selector_values;
    assert_eq!(found, expected);
    assert_eq!(without.cloud.operations(), ["DescribeInstances"]);
}

#[tokio::test]
async fn a_document_counts_once_and_then_nobody_is_asked() {
    let fixture = Fixture::new("", |_| described(INSTANCE_XML)).await;
    let found = fixture.attest(&fixture.evidence()).await.unwrap();
    fixture.attested.0.lock().unwrap().push(found.agent_id.to_string());
    let (code, text) = fixture.refusal().await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(text, "attestation data has already been used to attest an agent");
    assert_eq!(fixture.cloud.asked().len(), 1);
}

#[tokio::test]
async fn templates_name_agents_by_tags_too() {
    let template = r#"agent_path_template = "/{{ .PluginName }}/zone1/{{ .Tags.Hostname }}""#;
    let tagged = |value: &str| {
        let tags =
            format!("<tagSet><item><key>Hostname</key><value>{value}</value></item></tagSet>");
        format!("{INSTANCE_XML}{tags}")
    };
    let named = tagged("host1");
    let fixture = Fixture::new(template, move |_| described(&named)).await;
    let found = fixture.attest(&fixture.evidence()).await.unwrap();
    assert_eq!(found.agent_id.as_str(), id("zone1/host1"));
    fixture.attested.0.lock().unwrap().push(found.agent_id.to_string());
    assert_eq!(fixture.refusal().await.0, Code::PermissionDenied);

    let untagged = Fixture::new(template, |_| described(INSTANCE_XML)).await;
    let (code, text) = untagged.refusal().await;
    assert_eq!(code, Code::Internal);
    assert!(
        text.starts_with("failed to create spiffe ID: template: agent-path:1:33: executing")
            && text.ends_with("map has no entry for key \"Hostname\""),
        "{text}"
    );
}

/// CVE-2021-27099: a tag with `../` must not name another agent.
#[tokio::test]
async fn a_tag_cannot_climb_out_of_its_path() {
    let template = r#"agent_path_template = "/{{ .PluginName }}/{{ .Tags.Hostname }}""#;
    for tag in
        ["../admin", "../../../victim", "a/../../b", "..", ".", "a//b", "", "a b", "/x", "x/"]
    {
        let instance = format!(
            "{INSTANCE_XML}<tagSet><item><key>Hostname</key><value>{tag}</value></item></tagSet>"
        );
        let fixture = Fixture::new(template, move |_| described(&instance)).await;
        let (code, text) = fixture.refusal().await;
        assert_eq!(code, Code::Internal, "{tag}");
        assert!(
            text.starts_with("failed to create spiffe ID: invalid agent path suffix"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_refused_where_it_must_be_looked_at() {
    let empty = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
    let other = INSTANCE_XML.replace(INSTANCE, "i-other");
    let (code, text) = Fixture::new("", move |_| xml(empty)).await.refusal().await;
    assert_eq!(code, Code::Internal);
    assert_eq!(text, "failed to query AWS via describe-instances: returned no reservations");
    // What is said of another instance is not said of this one.
    let (_, text) = Fixture::new("", move |_| described(&other)).await.refusal().await;
    assert_eq!(text, "failed to query AWS via describe-instances: returned no reservations");
    let lax = Fixture::new("skip_block_device = true", move |_| xml(empty)).await;
    let found = lax.attest(&lax.evidence()).await.unwrap();
    assert_eq!(found.selector_values, DOCUMENT_SELECTORS);
}

#[tokio::test]
async fn the_root_volume_must_be_the_one_that_the_instance_was_made_with() {
    let exchanged = INSTANCE_XML.replace("<deviceIndex>0", "<deviceIndex>1");
    let answer = move |_: &Asked| described(&exchanged);
    let (code, text) = Fixture::new("", answer.clone()).await.refusal().await;
    assert_eq!(code, Code::Internal);
    let expected = "failed aws ec2 attestation: the EC2 instance network interface with device \
                    index 0 is inaccessible";
    assert_eq!(text, expected);
    for settings in
        ["skip_block_device = true", r#"account_ids_for_local_validation = ["123456789012"]"#]
    {
        let fixture = Fixture::new(settings, answer.clone()).await;
        assert!(fixture.attest(&fixture.evidence()).await.is_ok(), "{settings}");
    }
    let elsewhere = r#"account_ids_for_local_validation = ["210987654321"]"#;
    assert!(Fixture::new(elsewhere, answer).await.refusal().await.1.contains("inaccessible"));
}

fn accounts(asked: &Asked) -> Answer {
    let account = |id: &str, status: &str| json!({ "Id": id, "Status": status });
    match asked.body.contains("NextToken") {
        false => json(json!({
            "Accounts": [account("111111111111", "ACTIVE"), account("222222222222", "SUSPENDED")],
            "NextToken": "more",
        })),
        true => json(json!({ "Accounts": [account(ACCOUNT, "ACTIVE")] })),
    }
}

const ORGANIZATION: &str = r#"verify_organization = {
    management_account_id = "999999999999" assume_org_role = "lister" }"#;

fn assumed(asked: &Asked) -> Answer {
    xml(format!(
        "<{0}Response><{0}Result><Credentials><AccessKeyId>ASIA</AccessKeyId>\
         <SecretAccessKey>x</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2026-01-01T00:15:00Z</Expiration></Credentials></{0}Result></{0}Response>",
        asked.operation()
    ))
}

#[tokio::test]
async fn an_account_of_the_organization_is_found_in_the_role_of_its_management_account() {
    let fixture = Fixture::new(ORGANIZATION, |asked| match asked.operation().as_str() {
        "AssumeRole" => {
            let arn = "arn:aws:iam::999999999999:role/lister";
            assert_eq!(asked.parameter("RoleArn").as_deref(), Some(arn));
            assert_eq!(asked.parameter("DurationSeconds").as_deref(), Some("900"));
            assert!(asked.header("authorization").unwrap().contains("/us-west-2/sts/"));
            assumed(asked)
        }
        "ListAccounts" => {
            assert_eq!(asked.header("x-amz-security-token"), Some("token"));
            accounts(asked)
        }
        _ => described(INSTANCE_XML),
    })
    .await;
    fixture.attest(&fixture.evidence()).await.unwrap();
    let expected = ["AssumeRole", "ListAccounts", "ListAccounts", "DescribeInstances"];
    assert_eq!(fixture.cloud.operations(), expected);

    // Others are looked for a few times more, in the same role while it lasts.
    let mut other = document();
    other["accountId"] = "222222222222".into();
    for _ in 0..7 {
        let (code, text) = refused(fixture.attest(&fixture.evidence_of(&other)).await);
        assert_eq!(code, Code::Internal);
        let expected = "failed aws ec2 attestation, nodes account id: 222222222222 is not part of \
                        configured organization or doesn't have ACTIVE status";
        assert_eq!(text, expected);
    }
    let listed = |fixture: &Fixture| {
        fixture.cloud.operations().iter().filter(|it| *it == "ListAccounts").count()
    };
    assert_eq!(listed(&fixture), 2 + 5 * 2);
    fixture.clock.advance(std::time::Duration::from_secs(181));
    fixture.attest(&fixture.evidence()).await.unwrap();
    assert_eq!(listed(&fixture), 2 + 5 * 2 + 2);
    let assumed = fixture.cloud.operations().iter().filter(|it| *it == "AssumeRole").count();
    assert_eq!(assumed, 1);
}

#[tokio::test]
async fn accounts_may_be_listed_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.json");
    std::fs::write(&path, format!(r#"["111111111111", "{ACCOUNT}"]"#)).unwrap();
    let settings =
        format!("verify_organization = {{ account_list_file = \"{}\" }}", path.display());
    let fixture = Fixture::new(&settings, |_| described(INSTANCE_XML)).await;
    fixture.attest(&fixture.evidence()).await.unwrap();
    assert_eq!(fixture.cloud.operations(), ["DescribeInstances"]);
    fixture.clock.advance(std::time::Duration::from_secs(181));
    for (text, expected) in [
        ("[]", "is not part of configured organization or doesn't have ACTIVE status"),
        (
            "nonsense",
            "belong to org: failed to load org account list: unable to parse account list",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let (code, text) = fixture.refusal().await;
        assert_eq!(code, Code::Internal);
        assert!(text.contains(expected), "{text}");
        fixture.clock.advance(std::time::Duration::from_secs(181));
    }
}

#[tokio::test]
async fn look_ups_are_made_in_a_role_of_the_instances_account() {
    let settings = "assume_role = \"delegate\"\npartition = \"aws-cn\"";
    let fixture = Fixture::new(settings, |asked| match asked.operation().as_str() {
        "AssumeRole" => {
            let arn = format!("arn:aws-cn:iam::{ACCOUNT}:role/delegate");
            assert_eq!(asked.parameter("RoleArn"), Some(arn));
            assumed(asked)
        }
        _ => {
            assert_eq!(asked.header("x-amz-security-token"), Some("token"));
            assert!(asked.header("authorization").unwrap().contains("Credential=ASIA/"));
            described(INSTANCE_XML)
        }
    })
    .await;
    for _ in 0..2 {
        fixture.attest(&fixture.evidence()).await.unwrap();
    }
    let once = ["AssumeRole", "DescribeInstances", "DescribeInstances"];
    assert_eq!(fixture.cloud.operations(), once, "the role is assumed once");
    fixture.clock.advance(std::time::Duration::from_secs(850));
    fixture.attest(&fixture.evidence()).await.unwrap();
    assert_eq!(fixture.cloud.operations()[3..], ["AssumeRole", "DescribeInstances"]);
}

#[tokio::test]
async fn a_node_of_a_cluster_is_found_in_its_node_groups() {
    let settings = r#"validate_eks_cluster_membership = { eks_cluster_names = ["a", "b/c"] }"#;
    let node = std::sync::Arc::new(Mutex::new(INSTANCE.to_owned()));
    let found = Arc::clone(&node);
    let fixture = Fixture::new(settings, move |asked| match asked.operation().as_str() {
        "GET /clusters/a/node-groups" => json(json!({ "nodegroups": ["n1"], "nextToken": "t/1" })),
        "GET /clusters/a/node-groups?nextToken=t%2F1" => json(json!({ "nodegroups": ["n2"] })),
        "GET /clusters/b%2Fc/node-groups" => json(json!({ "nodegroups": [] })),
        "GET /clusters/a/node-groups/n1" => json(json!({ "nodegroup": { "resources": null } })),
        "GET /clusters/a/node-groups/n2" => json(json!({ "nodegroup": {
            "resources": { "autoScalingGroups": [{ "name": "asg" }, {}] } } })),
        "DescribeAutoScalingGroups" => {
            assert_eq!(asked.parameter("AutoScalingGroupNames.member.1").as_deref(), Some("asg"));
            let id = found.lock().unwrap();
            xml(format!(
                "<R><DescribeAutoScalingGroupsResult><AutoScalingGroups><member><Instances><member>\
                 <InstanceId>{id}</InstanceId></member></Instances></member></AutoScalingGroups>\
                 </DescribeAutoScalingGroupsResult></R>"
            ))
        }
        _ => described(INSTANCE_XML),
    })
    .await;
    fixture.attest(&fixture.evidence()).await.unwrap();
    *node.lock().unwrap() = "i-other".to_owned();
    fixture.clock.advance(std::time::Duration::from_secs(31));
    let (code, text) = fixture.refusal().await;
    assert_eq!(code, Code::Internal);
    let expected = format!(
        "failed aws eks attestation, nodes id: {INSTANCE} is not part of configured EKS cluster"
    );
    assert_eq!(text, expected);
}
