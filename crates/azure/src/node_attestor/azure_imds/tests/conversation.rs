//! The conversation between agent and server, honest and not.

use super::*;

#[tokio::test]
async fn an_honest_agent_gets_its_id_and_selectors() {
    let cloud = Cloud::new();
    let (id, selectors) = cloud.attest().await.unwrap();
    let expected =
        format!("spiffe://example.org/spire/agent/azure_imds/TENANTID/SUBSCRIPTIONID/{VM}");
    assert_eq!(id, expected);
    assert_eq!(selectors, SELECTORS);
}

#[tokio::test]
async fn both_halves_understand_each_other() {
    let cloud = Cloud::new();
    let data = Block::parse(r#"tenant_domain = "example.com""#).unwrap();
    let settings = agent::Settings::read(Some(&data)).unwrap();
    let evidence = Arc::new(agent::Agent::new(settings, cloud.recorded.web()));
    contract::node_evidence(&*evidence).await;
    let instance = r#"{"compute":{"name":"V","subscriptionId":"S","resourceGroupName":"G"}}"#;
    let url = "GET http://169.254.169.254/metadata/instance?api-version=2025-04-07&format=json";
    cloud.recorded.on(url, 200, instance);

    struct Machine<'a>(&'a Cloud, Arc<agent::Agent>);
    #[async_trait]
    impl Challenger for Machine<'_> {
        async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
            let nonce = std::str::from_utf8(challenge).unwrap();
            let Payload { document, .. } = self.0.respond(nonce);
            let body = json!({ "encoding": "pkcs7", "signature": document.signature });
            let url = format!(
                "GET http://169.254.169.254/metadata/attested/document\
                 ?api-version=2025-04-07&nonce={nonce}"
            );
            self.0.recorded.on(&url, 200, body.to_string());
            self.1.respond(challenge).await
        }
    }
    let payload = evidence.payload().await.unwrap();
    assert_eq!(payload, b"non_empty_payload");
    let mut machine = Machine(&cloud, evidence);
    let attributes = cloud.server().attest(&payload, &mut machine).await.unwrap();
    assert_eq!(attributes.selector_values, SELECTORS);
}

#[tokio::test]
async fn an_agent_without_azure_says_what_it_misses() {
    let recorded = Recorded::default();
    let data = Block::parse(r#"tenant_domain = "example.com""#).unwrap();
    let settings = agent::Settings::read(Some(&data)).unwrap();
    let agent = agent::Agent::new(settings, recorded.web());
    let refused = agent.respond(b"nonce").await.unwrap_err();
    assert_eq!(refused.code, Code::Internal);
    let text = "nodeattestor(azure_imds): unable to fetch attested document: no complete answer \
                within 10s";
    assert_eq!(refused.message, text);
    for nonce in [&b"\xff"[..], &[b'a'; 33]] {
        let refused = agent.respond(nonce).await.unwrap_err();
        assert_eq!(refused.message, "nodeattestor(azure_imds): server sent no valid nonce");
    }
    let refused = check_agent(None).unwrap_err();
    assert_eq!(refused.message, "nodeattestor(azure_imds): tenant_domain is required");
}

#[tokio::test]
async fn nonces_are_unforeseeable_and_what_azure_takes() {
    let cloud = Cloud::new();
    let seen = Mutex::new(Vec::new());
    for _ in 0..20 {
        let note = |nonce: &str, payload| {
            seen.lock().unwrap().push(nonce.to_owned());
            payload
        };
        cloud.attest_with(note).await.unwrap();
    }
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().all(|it| it.len() == 32 && it.bytes().all(|b| b.is_ascii_alphanumeric())));
    let different: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!(different.len(), 20);
}

#[tokio::test]
async fn a_document_counts_for_its_nonce_only() {
    let cloud = Cloud::new();
    let server = cloud.server();
    let earlier = Mutex::new(None);
    let respond = |nonce: &str| {
        let response = cloud.respond(nonce).to_json();
        earlier.lock().unwrap().get_or_insert(response).clone()
    };
    attest(&server, respond).await.unwrap();
    let replayed = attest(&server, respond).await.unwrap_err();
    assert_eq!(replayed, (Code::InvalidArgument, "nonce mismatch".to_owned()));
}

#[tokio::test]
async fn what_a_document_must_say_is_checked_in_spires_order() {
    let cloud = Cloud::new();
    let refusal = async |vm: &str, subscription: &str, nonce_end: &str| {
        let respond = |nonce: &str, _| {
            let content = content_of(vm, subscription, &format!("{nonce}{nonce_end}"));
            let service = &cloud.azure.service;
            cloud.payload(&document(content.as_bytes(), service, &[service]))
        };
        let (code, text) = cloud.attest_with(respond).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
        text
    };
    assert_eq!(refusal("", "", "x").await, "missing VM ID in attested document");
    assert_eq!(refusal(VM, "", "x").await, "missing subscription ID in attested document");
    assert_eq!(refusal("no", "S", "x").await, "nonce mismatch");
    let text = "invalid VM ID: invalid UUID format: \"no' or '1'\": uuid: incorrect UUID length";
    assert_eq!(refusal("no' or '1'", "S", "").await, text);
    assert!(cloud.recorded.count("ResourceGraph") == 0);
}

#[tokio::test]
async fn other_tenants_and_subscriptions_are_refused_before_azure_is_asked() {
    let mut cloud = Cloud::new();
    let elsewhere = |_: &str, mut payload: Payload| {
        payload.metadata.agent_domain = "unauthorized.com".to_owned();
        payload
    };
    let refused = cloud.attest_with(elsewhere).await.unwrap_err();
    let text = "tenant \"unauthorized.com\" is not authorized".to_owned();
    assert_eq!(refused, (Code::PermissionDenied, text));
    cloud.settings =
        r#"tenants = { "example.com" = { restrict_to_subscriptions = ["another"] } }"#.to_owned();
    let refused = cloud.attest().await.unwrap_err();
    let text = "subscription \"SUBSCRIPTIONID\" is not authorized".to_owned();
    assert_eq!(refused, (Code::PermissionDenied, text));
    assert_eq!(cloud.recorded.count("login.microsoftonline.com"), 0);
    assert_eq!(cloud.recorded.count("ResourceGraph"), 0);
    cloud.settings = cloud.settings.replace("another", " SUBSCRIPTIONID ");
    cloud.attest().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_has_attested_is_refused() {
    let mut cloud = Cloud::new();
    let (id, _) = cloud.attest().await.unwrap();
    cloud.attested.push(id);
    let asked = cloud.recorded.count("ResourceGraph");
    let refused = cloud.attest().await.unwrap_err();
    let text = "attestation data has already been used to attest an agent".to_owned();
    assert_eq!(refused, (Code::PermissionDenied, text));
    assert_eq!(cloud.recorded.count("ResourceGraph"), asked);
}

#[tokio::test]
async fn the_template_makes_the_id_and_nothing_is_cleaned_up() {
    let mut cloud = Cloud::new();
    let template = |text: &str| format!("{TENANTS}\nagent_path_template = {text:?}");
    cloud.settings = template("/{{ .PluginName }}/{{ .TenantID }}");
    let (id, _) = cloud.attest().await.unwrap();
    assert_eq!(id, "spiffe://example.org/spire/agent/azure_imds/TENANTID");
    cloud.settings = template("/{{ .PluginName }}/../{{ .VMID }}");
    let (code, text) = cloud.attest().await.unwrap_err();
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("unable to make agent ID: invalid agent path suffix"), "{text}");
}

#[tokio::test]
async fn what_is_no_payload_is_refused() {
    let cloud = Cloud::new();
    for (response, text) in [
        (&b""[..], "missing attestation payload"),
        (b"{invalid json", "failed to unmarshal data payload: it is not JSON"),
        (b"{}", "failed to validate attested document: missing signature in attested document"),
        (&vec![b' '; payload::MAX_LEN + 1], "failed to unmarshal data payload: it is too large"),
    ] {
        let refused = attest(&cloud.server(), |_: &str| response.to_vec()).await.unwrap_err();
        assert_eq!(refused, (Code::InvalidArgument, text.to_owned()));
    }
    assert!(cloud.recorded.asked().is_empty());
}

#[tokio::test]
async fn a_tenant_that_cannot_be_looked_up_is_no_reason_to_give_up_for_ever() {
    let cloud = Cloud::new();
    cloud.recorded.on(OPENID, 503, "");
    let server = cloud.server();
    let respond = |nonce: &str| cloud.respond(nonce).to_json();
    let refused = attest(&server, respond).await.unwrap_err();
    let text = "unable to lookup tenant ID: failed to fetch tenant ID, status: 503".to_owned();
    assert_eq!(refused, (Code::Internal, text));
    cloud.recorded.on(OPENID, 200, r#"{"issuer":"https://sts.windows.net/TENANTID/"}"#);
    cloud.clock.advance(Duration::from_secs(20));
    attest(&server, respond).await.unwrap();
    attest(&server, respond).await.unwrap();
    assert_eq!(cloud.recorded.count("openid-configuration"), 2);
}
