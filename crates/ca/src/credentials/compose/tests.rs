use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use steeple_pki::x509::{Certificate, ExtKeyUsage, KeyUsage};
use steeple_pki::{KeyType, PrivateKey, Signer, csr, jwt};

use super::*;
use crate::credentials::{Credentials, WorkloadJwtParams, WorkloadX509Params};
use crate::kind::{JwtKey, X509Ca};
use crate::testing::{DAY, HOUR, config, noon};

type Change<T> = Box<dyn Fn(T) -> Result<T, PluginError> + Send + Sync>;

/// Does to credentials what a test asks for, and notes which hooks were called.
struct Composer {
    name: &'static str,
    ca: Change<X509CaAttributes>,
    svid: Change<X509SvidAttributes>,
    claims: Change<Map<String, Value>>,
    calls: Mutex<Vec<String>>,
}

impl Composer {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            ca: Box::new(Ok),
            svid: Box::new(Ok),
            claims: Box::new(Ok),
            calls: Mutex::default(),
        }
    }

    fn svid(change: impl Fn(&mut X509SvidAttributes) + Send + Sync + 'static) -> Self {
        let svid = Box::new(move |mut attributes| {
            change(&mut attributes);
            Ok(attributes)
        });
        Self { svid, ..Self::new("test") }
    }

    fn ca(change: impl Fn(&mut X509CaAttributes) + Send + Sync + 'static) -> Self {
        let ca = Box::new(move |mut attributes| {
            change(&mut attributes);
            Ok(attributes)
        });
        Self { ca, ..Self::new("test") }
    }

    fn claims(change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) -> Self {
        let claims = Box::new(move |mut claims| {
            change(&mut claims);
            Ok(claims)
        });
        Self { claims, ..Self::new("test") }
    }

    fn call(&self, hook: &str) {
        self.calls.lock().unwrap().push(hook.to_owned());
    }
}

#[async_trait]
impl CredentialComposer for Composer {
    fn name(&self) -> &str {
        self.name
    }

    async fn compose_server_x509_ca(
        &self,
        attributes: X509CaAttributes,
    ) -> Result<X509CaAttributes, PluginError> {
        self.call("ca");
        (self.ca)(attributes)
    }

    async fn compose_server_x509_svid(
        &self,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        self.call("server");
        (self.svid)(attributes)
    }

    async fn compose_agent_x509_svid(
        &self,
        id: &SpiffeId,
        _: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        self.call(&format!("agent {id}"));
        (self.svid)(attributes)
    }

    async fn compose_workload_x509_svid(
        &self,
        id: &SpiffeId,
        _: &PublicKey,
        attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        self.call(&format!("workload {id}"));
        (self.svid)(attributes)
    }

    async fn compose_workload_jwt_svid(
        &self,
        id: &SpiffeId,
        claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PluginError> {
        self.call(&format!("jwt {id}"));
        (self.claims)(claims)
    }
}

/// Never answers.
struct Hung;

#[async_trait]
impl CredentialComposer for Hung {
    fn name(&self) -> &str {
        "hung"
    }

    async fn compose_workload_x509_svid(
        &self,
        _: &SpiffeId,
        _: &PublicKey,
        _: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        std::future::pending().await
    }
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn web() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/web").unwrap()
}

fn params(key: &PrivateKey) -> WorkloadX509Params {
    WorkloadX509Params {
        spiffe_id: web(),
        public_key: key.public_key().clone(),
        ttl: None,
        dns_names: vec!["web.example.org".into()],
        subject: None,
    }
}

/// Issues with a CA made at noon for a day without a composer, and with these composers after.
async fn issuing(composers: Vec<Arc<dyn CredentialComposer>>) -> Credentials {
    let signer: Arc<dyn Signer> = Arc::new(key());
    let plain = Credentials::new(&config());
    let ca = plain.self_signed_ca(&config(), signer.clone(), noon()).await.unwrap();
    let credentials = Credentials::with_composers(&config(), composers);
    credentials.set_x509_ca(&X509Ca::new(ca, vec![], signer.clone(), noon()));
    credentials.set_jwt_key(&JwtKey::new("kid".into(), signer, noon(), noon() + DAY));
    credentials
}

async fn one(composer: Composer) -> Credentials {
    issuing(vec![Arc::new(composer)]).await
}

async fn web_svid(composer: Composer) -> Result<Certificate, String> {
    let signed = one(composer).await.sign_x509_svid(params(&key()), noon()).await;
    signed.map(|mut chain| chain.remove(0)).map_err(|error| error.to_string())
}

async fn web_token(composer: Composer) -> Result<Map<String, Value>, String> {
    let params = WorkloadJwtParams {
        spiffe_id: web(),
        audience: vec!["db".into()],
        ttl: None,
        include_jti: false,
    };
    let svid = one(composer).await.sign_jwt_svid(params, noon()).await;
    let svid = svid.map_err(|error| error.to_string())?;
    let token = jwt::parse_unverified(&svid.token).unwrap();
    let claims = token.claims().clone();
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(claims["exp"], seconds(svid.expires_at), "what is told is what is in the token");
    assert_eq!(claims["iat"], seconds(svid.issued_at));
    Ok(claims)
}

fn extension(oid: &str, value: &[u8]) -> ExtraExtension {
    ExtraExtension { oid: oid.into(), value: value.into(), critical: false }
}

#[tokio::test]
async fn every_hook_is_called_for_its_credential() {
    let composer = Arc::new(Composer::new("test"));
    let credentials = issuing(vec![composer.clone()]).await;
    let public_key = key().public_key().clone();
    let agent = SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap();
    let signer: Arc<dyn Signer> = Arc::new(key());
    credentials.self_signed_ca(&config(), signer.clone(), noon()).await.unwrap();
    credentials.upstream_csr(&config(), signer.as_ref()).await.unwrap();
    credentials.sign_downstream_x509_ca(public_key.clone(), None, noon()).await.unwrap();
    credentials.sign_server_x509_svid(public_key.clone(), noon()).await.unwrap();
    credentials.sign_agent_x509_svid(&agent, public_key, noon()).await.unwrap();
    credentials.sign_x509_svid(params(&key()), noon()).await.unwrap();
    let jwt = WorkloadJwtParams {
        spiffe_id: web(),
        audience: vec!["db".into()],
        ttl: None,
        include_jti: true,
    };
    credentials.sign_jwt_svid(jwt, noon()).await.unwrap();
    assert_eq!(
        *composer.calls.lock().unwrap(),
        [
            "ca",
            "ca",
            "ca",
            "server",
            "agent spiffe://example.org/spire/agent/x",
            "workload spiffe://example.org/web",
            "jwt spiffe://example.org/web",
        ]
    );
}

#[tokio::test]
async fn composers_run_one_after_the_other_on_what_the_one_before_made() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let append = |name: &'static str| {
        let seen = Arc::clone(&seen);
        let svid: Change<X509SvidAttributes> = Box::new(move |mut attributes| {
            seen.lock().unwrap().push((name, attributes.dns_names.clone()));
            attributes.dns_names.push(format!("{name}.example.org"));
            attributes.subject.extra.push(("2.5.4.45".into(), name.into()));
            Ok(attributes)
        });
        Arc::new(Composer { svid, ..Composer::new(name) }) as Arc<dyn CredentialComposer>
    };
    let unimplemented: Change<X509SvidAttributes> = Box::new(|_| {
        let code = Code::Unimplemented;
        Err(PluginError::new(Kind::CredentialComposer, "not", code, "no such method"))
    });
    let not = Arc::new(Composer { svid: unimplemented, ..Composer::new("not") });
    let credentials = issuing(vec![append("first"), not, append("second")]).await;
    let svid = credentials.sign_x509_svid(params(&key()), noon()).await.unwrap().remove(0);
    let names = ["web.example.org", "first.example.org", "second.example.org"];
    assert_eq!(svid.dns_sans(), names);
    let seen = seen.lock().unwrap();
    assert_eq!(
        *seen,
        [
            ("first", vec![names[0].into()]),
            ("second", names[..2].iter().map(|it| (*it).into()).collect())
        ]
    );
    // Two attributes of one type stand side by side, as Go has them.
    let der = svid.subject_der();
    let count = der.windows(3).filter(|bytes| *bytes == [0x55, 4, 45]).count();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn what_a_composer_may_change_is_changed() {
    let svid = web_svid(Composer::svid(|attributes| {
        attributes.subject.name.organization = vec!["Ours".into()];
        attributes.subject.name.common_name = "not the first name".into();
        attributes.dns_names = vec!["other.example.org".into()];
        attributes.extra_extensions = vec![extension("1.3.6.1.4.1.99999.1", &[4, 1, 7])];
    }));
    let svid = svid.await.unwrap();
    let subject = svid.subject().unwrap();
    assert_eq!((&*subject.organization[0], &*subject.common_name), ("Ours", "not the first name"));
    assert_eq!(svid.dns_sans(), ["other.example.org"]);
    let id: Oid = "1.3.6.1.4.1.99999.1".parse().unwrap();
    let holds = |der: &[u8], part: &[u8]| der.windows(part.len()).any(|it| it == part);
    assert!(holds(svid.der(), &[id.as_bytes(), &[4, 3, 4, 1, 7]].concat()));

    let composer = || {
        Composer::ca(|attributes| {
            attributes.subject.name.organization = vec!["Ours".into()];
            attributes.policy_identifiers = vec!["1.3.6.1.4.1.99999.2".into()];
            attributes.extra_extensions = vec![extension("1.3.6.1.4.1.99999.1", &[4, 1, 7])];
        })
    };
    let policy: Oid = "1.3.6.1.4.1.99999.2".parse().unwrap();
    let credentials = Credentials::with_composers(&config(), vec![Arc::new(composer())]);
    let signer: Arc<dyn Signer> = Arc::new(key());
    let ca = credentials.self_signed_ca(&config(), signer.clone(), noon()).await.unwrap();
    assert_eq!(ca.subject().unwrap().organization, ["Ours"]);
    assert_eq!(ca.issuer_der(), ca.subject_der());
    assert!(holds(ca.der(), policy.as_bytes()) && holds(ca.der(), id.as_bytes()));

    let request = credentials.upstream_csr(&config(), signer.as_ref()).await.unwrap();
    let read = csr::Csr::parse(&request).unwrap();
    assert_eq!(read.subject().unwrap().organization, ["Ours"]);
    assert_eq!(read.uris(), ["spiffe://example.org"]);
    assert!(holds(&request, id.as_bytes()));
    assert!(!holds(&request, policy.as_bytes()), "policies are the upstream's to set");
}

#[tokio::test]
async fn no_extension_says_what_the_server_says_itself() {
    // A second SPIFFE ID, a CA, any usage, any purpose, other key ids.
    for (id, value) in [
        ("2.5.29.17", &b"\x30\x18\x86\x16spiffe://example.org/x"[..]),
        ("2.5.29.19", &[0x30, 3, 1, 1, 0xff]),
        ("2.5.29.15", &[3, 2, 1, 6]),
        ("2.5.29.37", &[0x30, 6, 6, 4, 0x55, 0x1d, 0x25, 0]),
        ("2.5.29.14", &[4, 1, 7]),
        ("2.5.29.35", &[0x30, 0]),
    ] {
        let composer = Composer::svid(move |it| it.extra_extensions = vec![extension(id, value)]);
        assert_eq!(
            web_svid(composer).await.unwrap_err(),
            format!(
                "credentialcomposer(test): plugin returned invalid X509SVID attributes: extra \
                 extensions: extension {id} cannot be overridden"
            )
        );
        let composer = Composer::ca(move |it| it.extra_extensions = vec![extension(id, value)]);
        let credentials = Credentials::with_composers(&config(), vec![Arc::new(composer)]);
        let refused = credentials.self_signed_ca(&config(), Arc::new(key()), noon()).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("credentialcomposer(test): plugin returned"), "{refused}");
    }
}

#[tokio::test]
async fn what_cannot_be_in_a_certificate_is_refused() {
    type Bad = (&'static str, fn(&mut X509SvidAttributes));
    let bad: [Bad; 9] = [
        ("subject: extra names: invalid OID: \"2.x\"", |it| {
            it.subject.extra = vec![("2.x".into(), "v".into())];
        }),
        ("extra extensions: invalid OID: \"\"", |it| {
            it.extra_extensions = vec![extension("", b"")];
        }),
        ("extra extensions: duplicate extension 1.2.3", |it| {
            it.extra_extensions = vec![extension("1.2.3", b"a"), extension("1.2.3", b"b")];
        }),
        ("extra extensions: more than 32", |it| {
            it.extra_extensions = (0..33).map(|n| extension(&format!("1.2.{n}"), b"")).collect();
        }),
        ("extra extensions: larger than 16384 bytes", |it| {
            it.extra_extensions = vec![extension("1.2.3", &[0; 16_385])];
        }),
        ("subject: larger than 8192 bytes", |it| {
            it.subject.extra = vec![("1.2.3".into(), "x".repeat(8192))];
        }),
        ("DNS names: more than 1024", |it| it.dns_names = vec!["x".into(); 1025]),
        ("DNS name \"\" is not one", |it| it.dns_names = vec![String::new()]),
        ("DNS name \"a.org\\0.b.org\" is not one", |it| {
            it.dns_names = vec!["ok".into(), "a.org\0.b.org".into()];
        }),
    ];
    for (reason, change) in bad {
        let refused = web_svid(Composer::svid(change)).await.unwrap_err();
        let start = "credentialcomposer(test): plugin returned invalid X509SVID attributes: ";
        assert_eq!(refused, format!("{start}{reason}"));
    }
    let refused = web_svid(Composer::svid(|it| it.dns_names = vec!["ä".into()])).await;
    assert!(refused.unwrap_err().ends_with("DNS name \"ä\" is not one"));
    let nameless = one(Composer::ca(|it| it.subject = Name::default())).await;
    let refused = nameless.sign_downstream_x509_ca(key().public_key().clone(), None, noon());
    assert_eq!(
        refused.await.unwrap_err().to_string(),
        "credentialcomposer(test): plugin returned invalid X509CA attributes: subject: cannot be \
         empty"
    );
}

#[tokio::test]
async fn a_refusal_names_the_plugin_once_and_stops_the_credential() {
    for message in ["not today", "credentialcomposer(strict): not today"] {
        let svid: Change<X509SvidAttributes> = Box::new(move |_| {
            Err(PluginError { code: Code::PermissionDenied, message: message.to_owned() })
        });
        let refused = web_svid(Composer { svid, ..Composer::new("strict") }).await.unwrap_err();
        assert_eq!(refused, "credentialcomposer(strict): not today");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_composer_holds_nobody_up_for_long() {
    let credentials = issuing(vec![Arc::new(Hung)]).await;
    let refused = credentials.sign_x509_svid(params(&key()), noon()).await.unwrap_err();
    assert_eq!(refused.to_string(), "credentialcomposer(hung): no answer within 10 seconds");
    // What it has no say in is issued all the same.
    credentials.sign_server_x509_svid(key().public_key().clone(), noon()).await.unwrap();
}

#[tokio::test]
async fn claims_are_changed_within_the_rules() {
    let claims = web_token(Composer::claims(|claims| {
        // As they come back from a protobuf Struct.
        for name in ["exp", "iat"] {
            let float = claims[name].as_f64().unwrap();
            claims.insert(name.into(), float.into());
        }
        claims.insert("nbf".into(), 1_795_348_000_f64.into());
        claims.insert("pi".into(), 3.25.into());
        claims.insert("deep".into(), json!({"list": [1.0, 2.5, "x", null]}));
        claims.insert("aud".into(), "another".into());
        claims.insert("iss".into(), "https://issuer".into());
    }));
    let claims = claims.await.unwrap();
    assert_eq!(claims["sub"], "spiffe://example.org/web");
    assert_eq!(claims["aud"], "another");
    assert_eq!(claims["iss"], "https://issuer");
    assert_eq!(claims["exp"].to_string(), "1795349100");
    assert_eq!(claims["iat"].to_string(), "1795348800");
    assert_eq!(claims["nbf"].to_string(), "1795348000");
    assert_eq!(claims["pi"].to_string(), "3.25");
    assert_eq!(claims["deep"].to_string(), r#"{"list":[1,2.5,"x",null]}"#);

    // A token does not outlive what it is verified with.
    let late =
        Composer::claims(|claims| drop(claims.insert("exp".into(), 4_000_000_000_u64.into())));
    let end = noon() + DAY;
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(web_token(late).await.unwrap()["exp"], end);
}

#[tokio::test]
async fn claims_against_the_rules_are_refused() {
    type Bad = (&'static str, fn(&mut Map<String, Value>));
    let cases: [Bad; 14] = [
        (
            r#""sub" claim: expected "spiffe://example.org/web" but got "spiffe://example.org/db""#,
            |it| drop(it.insert("sub".into(), "spiffe://example.org/db".into())),
        ),
        (r#""sub" claim: expected "spiffe://example.org/web" but got """#, |it| {
            it.remove("sub");
        }),
        (r#"malformed "sub" claim"#, |it| drop(it.insert("sub".into(), 7.into()))),
        (r#""exp" claim: required but missing"#, |it| drop(it.remove("exp"))),
        (r#""exp" claim: required but missing"#, |it| drop(it.insert("exp".into(), Value::Null))),
        (r#"malformed "exp" claim"#, |it| drop(it.insert("exp".into(), "1".into()))),
        (r#"malformed "exp" claim"#, |it| drop(it.insert("exp".into(), 1e300.into()))),
        (r#""exp" claim: already expired as of 2026-11-22T12:00:00Z"#, |it| {
            let now = it["iat"].clone();
            it.insert("exp".into(), now);
        }),
        (r#""iat" claim: required but missing"#, |it| drop(it.remove("iat"))),
        (r#""nbf" claim: not yet valid until 2026-11-22T12:00:01Z"#, |it| {
            it.insert("nbf".into(), 1_795_348_801_u64.into());
        }),
        (r#""aud" claim: required but missing"#, |it| drop(it.insert("aud".into(), json!([])))),
        (r#""aud" claim: contains empty value"#, |it| {
            it.insert("aud".into(), json!(["db", ""]));
        }),
        (r#"malformed "aud" claim"#, |it| drop(it.insert("aud".into(), json!(["db", 7])))),
        ("claims larger than 32768 bytes", |it| {
            it.insert("x".into(), "y".repeat(40_000).into());
        }),
    ];
    for (reason, change) in cases {
        let refused = web_token(Composer::claims(change)).await.unwrap_err();
        assert!(refused.ends_with(reason), "{refused}: {reason}");
        let by_rule = refused.starts_with("invalid workload JWT-SVID: ");
        assert!(by_rule || refused.starts_with("credentialcomposer(test): "), "{refused}");
    }
}

fn names() -> impl Strategy<Value = Name> {
    let pairs = prop::collection::vec(("[0-2](\\.[0-9]{1,4}){0,4}|\\PC{0,4}", "\\PC{0,20}"), 0..4);
    let texts = prop::collection::vec("\\PC{0,20}", 0..3);
    (texts.clone(), texts, "\\PC{0,20}", "\\PC{0,20}", pairs).prop_map(
        |(organization, country, common_name, serial_number, extra)| Name {
            name: DistinguishedName {
                organization,
                country,
                common_name,
                serial_number,
                ..DistinguishedName::default()
            },
            extra,
        },
    )
}

fn extensions() -> impl Strategy<Value = Vec<ExtraExtension>> {
    let oid = prop_oneof!["2\\.5\\.29\\.[0-9]{1,2}", "1\\.3\\.[0-9]{1,3}", "\\PC{0,6}"];
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let one = (oid, value, any::<bool>()).prop_map(|(oid, value, critical)| ExtraExtension {
        oid,
        value,
        critical,
    });
    prop::collection::vec(one, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_composer_answers_an_svid_is_its_own_or_none(
        subject in names(),
        dns_names in prop::collection::vec("[a-z.*-]{0,20}|\\PC{0,6}", 0..4),
        extra_extensions in extensions(),
    ) {
        let answer = X509SvidAttributes { subject, dns_names, extra_extensions };
        let svid: Change<X509SvidAttributes> = Box::new(move |_| Ok(answer.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let made = runtime.block_on(web_svid(Composer { svid, ..Composer::new("test") }));
        if let Ok(made) = made {
            prop_assert_eq!(made.uri_sans(), ["spiffe://example.org/web"]);
            prop_assert!(!made.is_ca() && !made.has_other_sans());
            prop_assert_eq!(made.key_usage(), Some(KeyUsage::SVID));
            let purposes = [ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth];
            prop_assert_eq!(made.ext_key_usage(), purposes);
            prop_assert_eq!(made.not_after(), noon() + HOUR);
        }
    }

    #[test]
    fn whatever_a_composer_answers_a_ca_is_one_of_this_trust_domain_or_none(
        subject in names(),
        policy_identifiers in prop::collection::vec("[0-2](\\.[0-9]{1,4}){0,4}|\\PC{0,4}", 0..4),
        extra_extensions in extensions(),
    ) {
        let answer = X509CaAttributes { subject, policy_identifiers, extra_extensions };
        let ca: Change<X509CaAttributes> = Box::new(move |_| Ok(answer.clone()));
        let composer = Arc::new(Composer { ca, ..Composer::new("test") });
        let credentials = Credentials::with_composers(&config(), vec![composer]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let made = runtime.block_on(credentials.self_signed_ca(&config(), Arc::new(key()), noon()));
        if let Ok(made) = made {
            prop_assert_eq!(made.uri_sans(), ["spiffe://example.org"]);
            prop_assert!(made.is_ca() && made.path_len().is_none());
            prop_assert_eq!(made.key_usage(), Some(KeyUsage::CA));
            prop_assert!(made.ext_key_usage().is_empty());
        }
    }
}
