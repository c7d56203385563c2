//! Tokens, honest and not.

use super::*;

const AGENT: &str = "spiffe://example.org/spire/agent/azure_msi/TENANTID/PRINCIPALID";

#[tokio::test]
async fn an_honest_agent_gets_its_id_and_selectors() {
    let cloud = Cloud::new();
    let (id, selectors) = cloud.attest().await.unwrap();
    assert_eq!(id, AGENT);
    assert_eq!(selectors, SELECTORS);
}

#[tokio::test]
async fn both_halves_understand_each_other() {
    let cloud = Cloud::new();
    let url = "GET http://169.254.169.254/metadata/identity/oauth2/token\
               ?api-version=2018-02-01&resource=https%3A%2F%2Fexample.org%2Fapp%2F";
    let body = json!({ "access_token": cloud.token(json!({})).await });
    cloud.recorded.on(url, 200, body.to_string());
    let data = Block::parse(r#"resource_id = "https://example.org/app/""#).unwrap();
    let settings = agent::Settings::read(Some(&data)).unwrap();
    let agent = agent::Agent::new(settings, cloud.recorded.web());
    contract::node_evidence(&agent).await;
    let payload = agent.payload().await.unwrap();
    assert_eq!(attest(&cloud.server(), &payload).await.unwrap().0, AGENT);
    cloud.recorded.on(url, 500, "ERROR");
    let refused = agent.payload().await.unwrap_err();
    let text = "nodeattestor(azure_msi): unable to fetch token: unexpected status code 500: ERROR";
    assert_eq!((refused.code, &*refused.message), (Code::Internal, text));
}

#[tokio::test]
async fn claims_are_checked_with_spires_codes_and_words() {
    let cloud = Cloud::new();
    let claims = "unable to validate token claims: go-jose/go-jose/jwt: validation failed, ";
    let expired = format!("{claims}token is expired (exp)");
    let audience = format!("{claims}invalid audience claim (aud)");
    let issuer = format!("{claims}invalid issuer claim (iss)");
    let early = format!("{claims}token not valid yet (nbf)");
    for (change, code, text) in [
        (json!({ "tid": null }), Code::Internal, "token missing tenant ID claim"),
        (json!({ "tid": "" }), Code::Internal, "token missing tenant ID claim"),
        (json!({ "tid": 7 }), Code::Internal, "token missing tenant ID claim"),
        (json!({ "sub": null }), Code::Internal, "token missing subject claim"),
        (
            json!({ "tid": "BADTENANTID" }),
            Code::PermissionDenied,
            "tenant \"BADTENANTID\" is not authorized",
        ),
        (json!({ "aud": null }), Code::Internal, &audience),
        (json!({ "aud": "https://management.azure.com/" }), Code::Internal, &audience),
        (json!({ "exp": NOW - 301 }), Code::Internal, &expired),
        (json!({ "nbf": NOW + 301 }), Code::Internal, &early),
        (json!({ "iss": null }), Code::Internal, &issuer),
        (json!({ "iss": "https://sts.windows.net/OTHER/" }), Code::Internal, &issuer),
        (
            json!({ "exp": null }),
            Code::Internal,
            "unable to validate token claims: token missing exp claim",
        ),
    ] {
        let refused = cloud.attest_with(change.clone()).await.unwrap_err();
        assert_eq!(refused, (code, text.to_owned()), "{change}");
    }
    assert_eq!(cloud.recorded.count("management.azure.com"), 0);
    for change in [
        json!({ "exp": NOW - 299 }),
        json!({ "nbf": NOW + 299 }),
        json!({ "iss": "https://login.microsoftonline.com/TENANTID/v2.0" }),
    ] {
        cloud.attest_with(change).await.unwrap();
    }
}

#[tokio::test]
async fn tokens_that_are_none_or_not_azures_are_refused() {
    let cloud = Cloud::new();
    let server = cloud.server();
    let refusal = async |token: &str| {
        let (code, text) = attest(&server, &payload::write(token)).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
        text
    };
    let good = cloud.token(json!({})).await;
    let parts: Vec<&str> = good.split('.').collect();
    assert!(refusal("blah").await.starts_with("unable to parse token: go-jose/go-jose: "));
    // {"alg":"none"}, {"alg":"HS256","kid":"KEYID"}, {"alg":"ES256"}, {"alg":"ES256","kid":"X"}
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let text = "unable to parse token: unexpected signature algorithm \"none\"; expected [";
    assert!(refusal(&none).await.starts_with(text));
    let hmac = format!("eyJhbGciOiJIUzI1NiIsImtpZCI6IktFWUlEIn0.{}.AAAA", parts[1]);
    assert!(refusal(&hmac).await.contains("unexpected signature algorithm \"HS256\""));
    let unnamed = format!("eyJhbGciOiJFUzI1NiJ9.{}.AAAA", parts[1]);
    assert_eq!(refusal(&unnamed).await, "token missing key id");
    let unknown = format!("eyJhbGciOiJFUzI1NiIsImtpZCI6IlgifQ.{}.AAAA", parts[1]);
    assert_eq!(refusal(&unknown).await, "key id \"X\" not found");
    let crypto = "unable to verify token: go-jose/go-jose: error in cryptographic primitive";
    assert_eq!(refusal(&format!("{}.{}.aaaa", parts[0], parts[1])).await, crypto);
    let stranger = PrivateKey::generate(KeyType::EcP256).unwrap();
    let forged = jwt::sign(cloud.claims().as_object().unwrap(), "KEYID", &stranger).await.unwrap();
    assert_eq!(refusal(&forged).await, crypto);
    let rsa = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let forged = jwt::sign(cloud.claims().as_object().unwrap(), "KEYID", &rsa).await.unwrap();
    assert_eq!(refusal(&forged).await, crypto);
    let large = format!("{good}{}", "A".repeat(16 * 1024));
    assert!(refusal(&large).await.starts_with("unable to parse token: token is too large"));
    for (payload, text) in [
        (&b"{"[..], "failed to unmarshal data payload: unexpected end of JSON input"),
        (b"{}", "missing token from attestation data"),
        (&vec![b' '; payload::MAX_LEN + 1], "failed to unmarshal data payload: it is too large"),
    ] {
        let refused = attest(&server, payload).await.unwrap_err();
        assert_eq!(refused, (Code::InvalidArgument, text.to_owned()));
    }
}

#[tokio::test]
async fn a_key_signs_for_the_tenants_that_its_issuer_says() {
    let cloud = Cloud::new();
    for issuer in
        ["https://login.microsoftonline.com/{tenantid}/v2.0", "https://sts.windows.net/TENANTID/"]
    {
        cloud.publish(&json!({ "kid": "KEYID", "issuer": issuer }));
        cloud.attest().await.unwrap();
    }
    let consumers = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0";
    cloud.publish(&json!({ "kid": "KEYID", "issuer": consumers }));
    let (code, text) = cloud.attest().await.unwrap_err();
    assert_eq!(code, Code::Internal);
    assert!(text.ends_with("invalid issuer claim (iss)"), "{text}");
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_told() {
    let cloud = Cloud::new();
    cloud.recorded.on(DISCOVERY, 500, "broken");
    let refused = cloud.attest().await.unwrap_err();
    let text = "unable to obtain JWKS: unexpected status code 500: broken".to_owned();
    assert_eq!(refused, (Code::Internal, text));
}

#[tokio::test]
async fn an_agent_that_has_attested_is_refused_before_azure_is_asked() {
    let mut cloud = Cloud::new();
    cloud.attested.push(AGENT.to_owned());
    let refused = cloud.attest().await.unwrap_err();
    let text = "attestation data has already been used to attest an agent".to_owned();
    assert_eq!(refused, (Code::PermissionDenied, text));
    assert_eq!(cloud.recorded.count("management.azure.com"), 0);
}

#[tokio::test]
async fn the_template_makes_the_id_and_nothing_is_cleaned_up() {
    let mut cloud = Cloud::new();
    let template = |text: &str| format!("{SETTINGS}\nagent_path_template = {text:?}");
    cloud.settings = template("/{{ .PluginName }}/{{ .TenantID }}");
    let (id, _) = cloud.attest().await.unwrap();
    assert_eq!(id, "spiffe://example.org/spire/agent/azure_msi/TENANTID");
    cloud.settings = template("/{{ .PluginName }}/{{ .PrincipalID }}");
    for subject in ["../admin", "a/../b", "a//b", "a b"] {
        let (code, text) = cloud.attest_with(json!({ "sub": subject })).await.unwrap_err();
        assert_eq!(code, Code::Internal);
        assert!(text.starts_with("unable to make agent ID: invalid agent path suffix"), "{text}");
    }
}
