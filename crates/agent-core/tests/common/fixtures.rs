//! An authority, entries, and a cache that is given what it wants.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_agent_core::cache::{IdentityCache, SignedSvid};
use steeple_agent_core::entry::Entry;
use steeple_agent_core::jwt::{JwtSource, JwtSvid};
use steeple_agent_core::sync::EntryDelta;
use steeple_pki::x509::{
    DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
};
use steeple_pki::{Certificate, KeyType, PrivateKey, Signer};
use steeple_spiffe::{Selector, SpiffeId};

pub(crate) const NOON: SystemTime = SystemTime::UNIX_EPOCH;
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Authority {
    pub(crate) certificate: Certificate,
    key: Arc<PrivateKey>,
}

impl Authority {
    pub(crate) async fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let template = Template {
            ca: true,
            key_usage: KeyUsage::CA,
            ..template(&key, "spiffe://example.org")
        };
        let signer: Arc<dyn Signer> = key.clone();
        let certificate = self_sign(&template, signer).await.unwrap();
        Self { certificate, key }
    }

    pub(crate) async fn sign(&self, entry: &Entry) -> SignedSvid {
        let issuer = Issuer::new(&self.certificate, self.key.clone());
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let leaf = issue(&template(&key, entry.spiffe_id.as_str()), &issuer).await.unwrap();
        SignedSvid { chain: vec![leaf], key_pkcs8: key.to_pkcs8_der(), due: NOON + HOUR / 2 }
    }
}

fn template(key: &PrivateKey, uri: &str) -> Template {
    Template {
        subject: DistinguishedName { country: vec!["US".into()], ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: NOON,
        not_after: NOON + HOUR,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec![uri.into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    }
}

pub(crate) fn entry(number: usize, selector: &str) -> Entry {
    Entry {
        id: format!("0f3c9d2e-8a41-4c57-b1d6-{number:012}").into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/filled/{number}")).unwrap(),
        selectors: [Selector::new("unix", selector)].into_iter().collect(),
        federates_with: Vec::new(),
        hint: String::new(),
        revision: 0,
        created_at: 100,
        admin: false,
        downstream: false,
        store_svid: false,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

pub(crate) fn learn(cache: &IdentityCache, entries: Vec<Entry>) {
    let bundles = HashMap::from([(cache.own_bundle().trust_domain().clone(), cache.own_bundle())]);
    cache.apply(EntryDelta { upserted: entries, removed: Vec::new() }, bundles, NOON);
}

pub(crate) async fn sign(cache: &IdentityCache, authority: &Authority) {
    loop {
        let wanted = cache.wanted(50, NOON);
        if wanted.is_empty() {
            return;
        }
        let mut signed = Vec::with_capacity(wanted.len());
        for request in wanted {
            let svid = authority.sign(&request.entry).await;
            signed.push((request.entry, svid));
        }
        cache.install(signed);
    }
}

/// Tokens that nobody has to sign.
pub(crate) struct Tokens;

#[async_trait]
impl JwtSource for Tokens {
    async fn sign(&self, _: &Entry, _: &[String], _: bool) -> Result<JwtSvid, String> {
        let (issued_at, expires_at) = (NOON, NOON + HOUR);
        Ok(JwtSvid { token: "a.b.c".into(), key_id: "key".into(), issued_at, expires_at })
    }
}
