use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::SignedSvid;
use steeple_agent_core::sync::EntryDelta;
use steeple_pki::{Bundle, Certificate};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_testkit::TestCa;

use super::*;

/// Notes what it is told, and fails when it is told to.
#[derive(Default)]
struct Noting {
    told: Mutex<Vec<String>>,
    fails_with: Mutex<Option<Code>>,
}

impl Noting {
    fn tell(&self, what: String) -> Result<(), PluginError> {
        match *self.fails_with.lock().unwrap() {
            Some(code) => Err(PluginError { code, message: "no".into() }),
            None => {
                self.told.lock().unwrap().push(what);
                Ok(())
            }
        }
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

#[async_trait]
impl SvidStore for Noting {
    fn name(&self) -> &str {
        "noting"
    }

    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError> {
        assert_eq!(svid.chain[0].public_key(), svid.private_key.public_key());
        self.tell(format!("put {} {:?}", svid.spiffe_id, svid.metadata))
    }

    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError> {
        self.tell(format!("delete {metadata:?}"))
    }
}

struct Scene {
    cache: Arc<StoreCache>,
    store: Arc<Noting>,
    service: StoreService,
    ca: TestCa,
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

impl Scene {
    fn new() -> Self {
        let ca = TestCa::new(&domain());
        let root = Certificate::from_pem(&ca.certificate_pem()).unwrap();
        let bundle = Bundle::from_certificates(domain(), vec![root]);
        let cache = Arc::new(StoreCache::new(Arc::new(CachedBundle::new(bundle))));
        let store = Arc::new(Noting::default());
        let service = StoreService::new(cache.clone(), vec![store.clone()]);
        Self { cache, store, service, ca }
    }

    fn upsert(&self, selectors: &[(&str, &str)]) {
        let entry = Entry {
            id: "e1".into(),
            spiffe_id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
            selectors: selectors.iter().map(|(kind, value)| Selector::new(kind, value)).collect(),
            federates_with: Vec::new(),
            hint: String::new(),
            revision: 0,
            created_at: 0,
            admin: false,
            downstream: false,
            store_svid: true,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        };
        self.cache.apply(EntryDelta { upserted: vec![entry], removed: vec![] }, Default::default());
        let wanted = self.cache.wanted(10, SystemTime::now());
        let signed = wanted.into_iter().map(|it| {
            let svid = self.ca.issue(&it.entry.spiffe_id);
            let key = PrivateKey::from_pkcs8_der(&svid.key_der).unwrap();
            let chain = vec![Certificate::from_pem(&svid.chain_pem).unwrap()];
            let due = SystemTime::now() + Duration::from_secs(3600);
            (it.entry, SignedSvid { chain, key_pkcs8: key.to_pkcs8_der(), due })
        });
        self.cache.install(signed.collect());
    }

    fn remove(&self) {
        let delta = EntryDelta { upserted: vec![], removed: vec!["e1".into()] };
        self.cache.apply(delta, Default::default());
    }
}

#[tokio::test]
async fn a_store_is_told_by_its_name_with_the_other_halves_of_the_selectors() {
    let scene = Scene::new();
    scene.upsert(&[("noting", "name:a"), ("noting", "arn:b:c")]);
    scene.service.process().await;
    assert_eq!(scene.store.told(), [r#"put spiffe://example.org/w ["arn:b:c", "name:a"]"#]);
    scene.service.process().await;
    assert!(scene.store.told().is_empty(), "once is enough");
    scene.remove();
    scene.service.process().await;
    assert_eq!(scene.store.told(), [r#"delete ["arn:b:c", "name:a"]"#]);
    assert_eq!(scene.cache.count(), 0);
}

#[tokio::test]
async fn what_a_store_failed_at_is_tried_again_but_not_what_it_found_malformed() {
    let scene = Scene::new();
    scene.upsert(&[("noting", "a")]);
    *scene.store.fails_with.lock().unwrap() = Some(Code::Internal);
    scene.service.process().await;
    scene.service.process().await;
    *scene.store.fails_with.lock().unwrap() = None;
    scene.service.process().await;
    assert_eq!(scene.store.told().len(), 1);
    scene.remove();
    *scene.store.fails_with.lock().unwrap() = Some(Code::Unavailable);
    scene.service.process().await;
    assert_eq!(scene.cache.count(), 1);
    *scene.store.fails_with.lock().unwrap() = Some(Code::InvalidArgument);
    scene.service.process().await;
    assert_eq!(scene.cache.count(), 0);
}

#[tokio::test]
async fn entries_of_no_store_or_of_two_are_logged_and_left() {
    let scene = Scene::new();
    scene.upsert(&[("nobody", "a")]);
    scene.service.process().await;
    scene.upsert(&[("nobody", "a"), ("noting", "a")]);
    scene.service.process().await;
    assert!(scene.store.told().is_empty());
}
