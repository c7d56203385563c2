//! The suite of credential composers.

use serde_json::{Map, Value};
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{KeyType, PrivateKey};
use steeple_spiffe::SpiffeId;

use crate::{CredentialComposer, Name, PluginError, X509CaAttributes, X509SvidAttributes};

/// Runs the suite on `composer`, which refuses nothing that is plain.
///
/// # Panics
/// When the contract is broken.
pub async fn credential_composer(composer: &dyn CredentialComposer) {
    assert!(!composer.name().is_empty(), "a plugin has a name");
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key is made");
    let key = key.public_key();
    let agent = SpiffeId::parse("spiffe://example.org/spire/agent/x").expect("an id");
    let workload = SpiffeId::parse("spiffe://example.org/workload").expect("an id");
    for _ in 0..2 {
        let ca = composer.compose_server_x509_ca(ca()).await;
        subject_is_encodable(&done(ca, composer).subject);
        let server = composer.compose_server_x509_svid(svid()).await;
        subject_is_encodable(&done(server, composer).subject);
        let of_agent = composer.compose_agent_x509_svid(&agent, key, svid()).await;
        subject_is_encodable(&done(of_agent, composer).subject);
        let of_workload = composer.compose_workload_x509_svid(&workload, key, svid()).await;
        subject_is_encodable(&done(of_workload, composer).subject);
        let claims = composer.compose_workload_jwt_svid(&workload, claims()).await;
        let claims = done(claims, composer);
        assert_eq!(claims["sub"], workload.as_str(), "the subject is nobody's to change");
    }
}

/// The answer, or the attributes of a hook that is not there.
fn done<T>(answer: Result<T, PluginError>, composer: &dyn CredentialComposer) -> T {
    answer.unwrap_or_else(|error| {
        let prefix = format!("credentialcomposer({}): ", composer.name());
        assert!(error.message.starts_with(&prefix), "{error} does not begin with {prefix:?}");
        panic!("refused a plain credential, or has no answer for a hook it does not have: {error}")
    })
}

fn subject_is_encodable(subject: &Name) {
    for (oid, _) in &subject.extra {
        let parsed = oid.parse::<steeple_pki::x509::Oid>();
        assert!(parsed.is_ok(), "{oid:?} is no object identifier");
    }
}

fn subject() -> Name {
    let name = DistinguishedName {
        country: vec!["US".to_owned()],
        organization: vec!["SPIRE".to_owned()],
        ..DistinguishedName::default()
    };
    Name { name, extra: Vec::new() }
}

fn ca() -> X509CaAttributes {
    X509CaAttributes { subject: subject(), ..X509CaAttributes::default() }
}

fn svid() -> X509SvidAttributes {
    let dns_names = vec!["workload.example.org".to_owned()];
    X509SvidAttributes { subject: subject(), dns_names, ..X509SvidAttributes::default() }
}

fn claims() -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("aud".to_owned(), Value::from(vec!["db"]));
    claims.insert("exp".to_owned(), 1_800_000_300.into());
    claims.insert("iat".to_owned(), 1_800_000_000.into());
    claims.insert("sub".to_owned(), "spiffe://example.org/workload".into());
    claims
}
