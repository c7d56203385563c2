//! An upstream authority that is good, and all the ways in which one is not.

use std::sync::Mutex as StdMutex;

use async_trait::async_trait;
use futures_util::stream;
use steeple_pki::csr::Csr;
use steeple_pki::x509::{self, DistinguishedName, Issuer, KeyUsage, SerialNumber, Template};
use steeple_pki::{KeyType, PrivateKey};
use steeple_plugin::{LocalBundle, MintedX509Ca, PublishedJwtKeys, no_updates};
use steeple_runtime::{ManualClock, drain};
use tokio::sync::mpsc;

use super::*;
use crate::credentials::WorkloadX509Params;
use crate::error::{AuthorityError, InvalidMint};
use crate::manager::{AuthorityKind, CaManager};
use crate::testing::{DAY, HOUR, World, config, noon};
use steeple_proto::journal::Status;
use steeple_spiffe::SpiffeId;

/// How an upstream answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Good,
    Refuses,
    Hangs,
    NoChain,
    NoRoots,
    OtherKey,
    Leaf,
    OtherDomain,
    OtherRoot,
    Expired,
    NotYet,
    Long,
    ManyRoots,
    Tainted,
    NoPathLeft,
}

struct Root {
    certificate: Certificate,
    key: Arc<dyn Signer>,
}

fn template(key: &steeple_pki::PublicKey, uri: &str, life: (SystemTime, SystemTime)) -> Template {
    Template {
        subject: DistinguishedName {
            common_name: "upstream".into(),
            ..DistinguishedName::default()
        },
        public_key: key.clone(),
        serial: SerialNumber::random(),
        not_before: life.0,
        not_after: life.1,
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: vec![],
        uri_sans: vec![uri.to_owned()],
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    }
}

use std::time::SystemTime;

async fn new_root() -> Root {
    let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let life = (noon() - HOUR, noon() + DAY * 3650);
    let template = template(key.public_key(), "spiffe://example.org", life);
    let certificate = x509::self_sign(&template, key.clone()).await.unwrap();
    Root { certificate, key }
}

/// An upstream authority with a script.
struct Above {
    clock: ManualClock,
    manner: StdMutex<Manner>,
    root: StdMutex<Arc<Root>>,
    /// What it says its roots are.
    roots: StdMutex<Vec<X509Authority>>,
    /// Its JWT keys; `None`: it takes none.
    keys: StdMutex<Option<Vec<JwtAuthority>>>,
    bundles: StdMutex<Option<mpsc::UnboundedReceiver<Result<LocalBundle, PluginError>>>>,
    minted: StdMutex<usize>,
}

impl Above {
    async fn new(clock: &ManualClock) -> Arc<Self> {
        let root = new_root().await;
        let roots = vec![X509Authority::new(root.certificate.clone())];
        Arc::new(Self {
            clock: clock.clone(),
            manner: StdMutex::new(Manner::Good),
            root: StdMutex::new(Arc::new(root)),
            roots: StdMutex::new(roots),
            keys: StdMutex::new(None),
            bundles: StdMutex::new(None),
            minted: StdMutex::new(0),
        })
    }

    fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn id(&self) -> String {
        self.root.lock().unwrap().certificate.authority_id()
    }

    /// Signs with a new root from now on; the old one stays in the list.
    async fn rotate(&self) {
        let new = new_root().await;
        self.roots.lock().unwrap().push(X509Authority::new(new.certificate.clone()));
        *self.root.lock().unwrap() = Arc::new(new);
    }

    fn mark_tainted(&self, id: &str) {
        let mut roots = self.roots.lock().unwrap();
        roots.iter_mut().find(|root| root.certificate.authority_id() == id).unwrap().tainted = true;
    }

    fn bundle(&self) -> LocalBundle {
        LocalBundle {
            x509_roots: self.roots.lock().unwrap().clone(),
            jwt_keys: self.keys.lock().unwrap().clone().unwrap_or_default(),
        }
    }
}

fn refusal(code: Code, text: &str) -> PluginError {
    PluginError::new(steeple_plugin::Kind::UpstreamAuthority, "test", code, text)
}

#[async_trait]
impl UpstreamAuthority for Above {
    fn name(&self) -> &str {
        "test"
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedX509Ca, PluginError> {
        let manner = *self.manner.lock().unwrap();
        *self.minted.lock().unwrap() += 1;
        let csr = Csr::parse(csr).unwrap();
        assert_eq!(csr.uris(), ["spiffe://example.org"]);
        let root = self.root.lock().unwrap().clone();
        let now = self.clock.now();
        let other = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut wanted = template(csr.public_key(), &csr.uris()[0], (now - HOUR, now + ttl));
        let mut roots = self.roots.lock().unwrap().clone();
        let mut chain_len = 1;
        let mut issuer = Issuer::new(&root.certificate, root.key.clone());
        match manner {
            Manner::Refuses => return Err(refusal(Code::Internal, "not today")),
            Manner::Hangs => std::future::pending().await,
            Manner::NoRoots => roots.clear(),
            Manner::OtherKey => wanted.public_key = other.public_key().clone(),
            Manner::Leaf => wanted.ca = false,
            Manner::OtherDomain => wanted.uri_sans = vec!["spiffe://other.org".into()],
            Manner::OtherRoot => issuer = Issuer::new(&root.certificate, Arc::new(other)),
            Manner::Expired => wanted.not_after = now - Duration::from_secs(60),
            Manner::NotYet => wanted.not_before = now + HOUR,
            Manner::Long => chain_len = 40,
            Manner::ManyRoots => {
                let more = vec![roots[0].clone(); 5000];
                roots.extend(more);
            }
            Manner::Tainted => roots.iter_mut().for_each(|root| root.tainted = true),
            Manner::NoPathLeft | Manner::NoChain | Manner::Good => {}
        }
        let certificate = x509::issue(&wanted, &issuer).await.unwrap();
        let mut chain = vec![certificate; chain_len];
        if manner == Manner::NoChain {
            chain.clear();
        }
        if manner == Manner::NoPathLeft {
            // The roots are of somebody else's PKI.
            roots = vec![X509Authority::new(new_root().await.certificate)];
        }
        Ok(MintedX509Ca { chain, roots, root_updates: no_updates() })
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        match &mut *self.keys.lock().unwrap() {
            None => Err(refusal(Code::Unimplemented, "publishing upstream is unsupported")),
            Some(keys) => {
                keys.push(key.clone());
                Ok(PublishedJwtKeys { keys: keys.clone(), updates: no_updates() })
            }
        }
    }

    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        let Some(bundles) = self.bundles.lock().unwrap().take() else {
            return Err(refusal(
                Code::Unimplemented,
                "fetching upstream trust bundle is unsupported",
            ));
        };
        Ok(Box::pin(stream::unfold(bundles, |mut bundles| async {
            bundles.recv().await.map(|bundle| (bundle, bundles))
        })))
    }
}

struct Scene {
    world: World,
    clock: ManualClock,
    above: Arc<Above>,
}

impl Scene {
    async fn new() -> Self {
        let clock = ManualClock::new(noon());
        Self { world: World::new(), above: Above::new(&clock).await, clock }
    }

    async fn start(&self) -> Result<CaManager, RotationError> {
        let above = Some(self.above.clone() as Arc<dyn UpstreamAuthority>);
        let manager = self.world.start_under(above, &config(), &self.clock).await?;
        manager.initialize().await?;
        Ok(manager)
    }

    async fn started(&self) -> CaManager {
        self.start().await.unwrap()
    }

    fn roots(&self) -> Vec<(String, bool)> {
        let bundle = self.world.durable().bundle.clone().unwrap();
        let root = |root: &X509Authority| (root.certificate.authority_id(), root.tainted);
        bundle.x509_authorities.iter().map(root).collect()
    }

    /// Issues an SVID and says by which of the upstream's roots it verifies.
    async fn verifies_under(&self, manager: &CaManager) -> String {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let params = WorkloadX509Params {
            spiffe_id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
            public_key: key.public_key().clone(),
            ttl: None,
            dns_names: vec![],
            subject: None,
        };
        let now = self.clock.now();
        let chain = manager.credentials().sign_x509_svid(params, now).await.unwrap();
        let roots = self.above.roots.lock().unwrap().clone();
        let above = roots.iter().find(|root| {
            let root = std::slice::from_ref(&root.certificate);
            steeple_pki::verify::verify_path(&chain[0], &chain[1..], root, now).is_ok()
        });
        above.expect("it verifies").certificate.authority_id()
    }
}

#[tokio::test(start_paused = true)]
async fn the_ca_is_the_upstreams_and_its_root_is_in_the_bundle_before_it_signs() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    assert_eq!(scene.roots(), [(scene.above.id(), false)]);
    assert_eq!(scene.verifies_under(&manager).await, scene.above.id());
    let entries = scene.world.entries();
    let row = &entries.x509_c_as[0];
    assert_eq!(row.upstream_authority_id, scene.above.id());
    assert_eq!(row.upstream_chain.len(), 1);
    assert_eq!(row.upstream_chain[0], row.certificate);
    assert_eq!(row.status(), Status::Active);
    let states = manager.authorities(AuthorityKind::X509).await.unwrap();
    assert_eq!(states.active.upstream_authority_id, scene.above.id());
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_lying_upstream_is_used_or_kept() {
    for (manner, text) in [
        (Manner::Refuses, "upstreamauthority(test): not today"),
        (Manner::Hangs, "upstreamauthority(test): no answer within 60 seconds"),
        (Manner::NoChain, "plugin response missing X.509 CA chain"),
        (Manner::NoRoots, "plugin response missing upstream X.509 roots"),
        (Manner::OtherKey, "the certificate is not for the key that was sent"),
        (Manner::Leaf, "invalid upstream-signed X509 CA: invalid X509 CA: cA constraint"),
        (Manner::OtherDomain, "invalid upstream-signed X509 CA: invalid X509 CA: expected URI SAN"),
        (Manner::OtherRoot, "certificate signed by unknown authority"),
        (Manner::NoPathLeft, "certificate signed by unknown authority"),
        (Manner::Expired, "already expired as of"),
        (Manner::NotYet, "not yet valid until"),
        (Manner::Long, "X509 CA chain is too long: 40 certificates"),
        (Manner::ManyRoots, "upstream bundle has too many authorities: 5001"),
        (Manner::Tainted, "signed it under a root that it calls tainted"),
    ] {
        let scene = Scene::new().await;
        scene.above.behave(manner);
        let error = scene.start().await.map(drop).unwrap_err().to_string();
        assert!(error.contains(text), "{manner:?}: {error}");
        assert!(scene.world.durable().bundle.is_none(), "{manner:?}");
        assert!(scene.world.durable().journals.is_empty(), "{manner:?}");
        // And it is no dead end.
        scene.above.behave(Manner::Good);
        let manager = scene.started().await;
        assert_eq!(scene.verifies_under(&manager).await, scene.above.id(), "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_server_goes_on_with_its_ca_while_the_upstream_is_away() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    let before = manager.credentials().x509_ca().unwrap();
    for manner in [Manner::Refuses, Manner::Hangs, Manner::OtherKey] {
        scene.above.behave(manner);
        scene.clock.advance(config().ca_ttl / 2 + HOUR / 10);
        manager.tick().await.unwrap_err();
        assert_eq!(manager.credentials().x509_ca().unwrap(), before, "{manner:?}");
        scene.clock.set(noon());
    }
    scene.above.behave(Manner::Good);
    scene.clock.advance(config().ca_ttl / 2 + HOUR / 10);
    manager.tick().await.unwrap();
    scene.clock.advance(config().ca_ttl / 2 - HOUR);
    manager.tick().await.unwrap();
    assert_ne!(manager.credentials().x509_ca().unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_the_intermediate_while_its_root_is_in_the_bundle() {
    let scene = Scene::new().await;
    let before = scene.started().await.credentials().x509_ca().unwrap();
    let again = scene.started().await;
    assert_eq!(again.credentials().x509_ca().unwrap(), before);
    assert_eq!(*scene.above.minted.lock().unwrap(), 1);

    scene.world.durable().bundle.as_mut().unwrap().x509_authorities.clear();
    let anew = scene.started().await;
    assert_ne!(anew.credentials().x509_ca().unwrap(), before);
    assert_eq!(scene.verifies_under(&anew).await, scene.above.id());
}

#[tokio::test(start_paused = true)]
async fn without_the_plugin_the_next_start_makes_a_root() {
    let scene = Scene::new().await;
    let before = scene.started().await.credentials().x509_ca().unwrap();
    let manager = scene.world.start(&config(), &scene.clock).await.unwrap();
    manager.initialize().await.unwrap();
    let root = manager.credentials().x509_ca().unwrap();
    assert_ne!(root, before);
    assert!(root.is_self_issued());
    assert_eq!(scene.roots().len(), 2, "what the old one signed is still verified");
}

#[tokio::test(start_paused = true)]
async fn jwt_keys_stay_here_when_the_upstream_takes_none() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    let kid = manager.credentials().jwt_key_id().unwrap();
    let bundle = scene.world.durable().bundle.clone().unwrap();
    assert!(bundle.find_jwt_authority(&kid).is_some());
}

#[tokio::test(start_paused = true)]
async fn jwt_keys_go_up_and_those_of_others_come_down() {
    let scene = Scene::new().await;
    let other = PrivateKey::generate(KeyType::EcP256).unwrap();
    let others = JwtAuthority {
        key_id: "other".into(),
        public_key: other.public_key().clone(),
        expires_at: Some(noon() + DAY),
        tainted: false,
    };
    *scene.above.keys.lock().unwrap() = Some(vec![others.clone()]);
    let manager = scene.started().await;
    let kid = manager.credentials().jwt_key_id().unwrap();
    let published = scene.above.keys.lock().unwrap().clone().unwrap();
    assert_eq!(published.iter().map(|key| &*key.key_id).collect::<Vec<_>>(), ["other", &*kid]);
    let bundle = scene.world.durable().bundle.clone().unwrap();
    assert_eq!(bundle.jwt_authorities.len(), 2);

    // A server below publishes through this one.
    let below = JwtAuthority { key_id: "below".into(), ..others };
    let bundle = manager.publish_jwt_key(below).await.unwrap();
    assert_eq!(bundle.jwt_authorities.len(), 3);
    assert_eq!(scene.above.keys.lock().unwrap().as_ref().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_always_has_new_keys_does_not_fill_our_bundle() {
    let scene = Scene::new().await;
    *scene.above.keys.lock().unwrap() = Some(vec![]);
    let manager = scene.started().await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let keys = |name: &str| -> Vec<JwtAuthority> {
        let key = |number| JwtAuthority {
            key_id: format!("{name}{number}"),
            public_key: key.public_key().clone(),
            expires_at: Some(noon() + DAY),
            tainted: false,
        };
        (0..2500).map(key).collect()
    };
    let below = keys("below").remove(0);
    scene.above.keys.lock().unwrap().as_mut().unwrap().extend(keys("a"));
    let held = manager.publish_jwt_key(below.clone()).await.unwrap().jwt_authorities.len();
    *scene.above.keys.lock().unwrap() = Some(keys("b"));
    let error = manager.publish_jwt_key(below).await.unwrap_err();
    assert!(matches!(error, RotationError::Minted(InvalidMint::Many(_))), "{error}");
    let bundle = scene.world.durable().bundle.clone().unwrap();
    assert_eq!(bundle.jwt_authorities.len(), held);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_forgets_our_jwt_key_is_found_out() {
    struct Forgetful(Arc<Above>);
    #[async_trait]
    impl UpstreamAuthority for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }
        async fn mint_x509_ca(&self, c: &[u8], t: Duration) -> Result<MintedX509Ca, PluginError> {
            self.0.mint_x509_ca(c, t).await
        }
        async fn publish_jwt_key(&self, _: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
            Ok(PublishedJwtKeys { keys: vec![], updates: no_updates() })
        }
        async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
            self.0.subscribe_to_local_bundle().await
        }
    }
    let scene = Scene::new().await;
    let above = Some(Arc::new(Forgetful(scene.above.clone())) as Arc<dyn UpstreamAuthority>);
    let manager = scene.world.start_under(above, &config(), &scene.clock).await.unwrap();
    let error = manager.initialize().await.unwrap_err();
    assert!(matches!(error, RotationError::NotInBundle), "{error}");
    assert_eq!(manager.credentials().jwt_key_id(), None);
}

#[tokio::test(start_paused = true)]
async fn roots_and_keys_that_come_later_are_followed() {
    let scene = Scene::new().await;
    let (send, receive) = mpsc::unbounded_channel();
    *scene.above.bundles.lock().unwrap() = Some(receive);
    let manager = scene.started().await;
    let (stop, watcher) = drain::channel();
    let mut updates = manager.bundle_updates();
    let old = scene.above.id();
    let script = async {
        scene.above.rotate().await;
        send.send(Ok(scene.above.bundle())).unwrap();
        wait(&mut updates, || scene.roots().len() == 2).await;
        assert_eq!(scene.verifies_under(&manager).await, old, "a new root changes nothing else");

        // The old root is tainted: the CA is replaced first, then the root is marked.
        let before = manager.credentials().x509_ca().unwrap();
        scene.above.mark_tainted(&old);
        send.send(Ok(scene.above.bundle())).unwrap();
        wait(&mut updates, || scene.roots().contains(&(old.clone(), true))).await;
        let after = manager.credentials().x509_ca().unwrap();
        assert_ne!(after, before);
        assert_eq!(scene.verifies_under(&manager).await, scene.above.id());
        let mut tainted = manager.tainted_authorities();
        let _ = tokio::time::timeout(HOUR, tainted.wait_for(|all| !all.is_empty())).await.unwrap();

        // It is gone above: it goes here.
        scene.above.roots.lock().unwrap().remove(0);
        send.send(Ok(scene.above.bundle())).unwrap();
        wait(&mut updates, || scene.roots().len() == 1).await;
        assert_eq!(scene.roots(), [(scene.above.id(), false)]);
        stop.drain(Duration::from_secs(1)).await;
    };
    tokio::join!(manager.clone().run(watcher), script);
}

#[tokio::test(start_paused = true)]
async fn a_root_is_not_marked_before_the_ca_under_it_could_be_replaced() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    let old = scene.above.id();
    scene.above.rotate().await;
    scene.above.mark_tainted(&old);
    let tainted = [scene.above.roots.lock().unwrap()[0].certificate.clone()];
    for manner in [Manner::Refuses, Manner::Hangs, Manner::OtherRoot] {
        scene.above.behave(manner);
        manager.replace_tainted(&tainted).await.unwrap_err();
        assert_eq!(scene.roots(), [(old.clone(), false)], "{manner:?}");
        assert_eq!(scene.verifies_under(&manager).await, old, "{manner:?}");
    }
    scene.above.behave(Manner::Good);
    manager.replace_tainted(&tainted).await.unwrap();
    assert!(scene.roots().contains(&(old, true)));
    assert_eq!(scene.verifies_under(&manager).await, scene.above.id());
    // Doing it again changes nothing.
    let ca = manager.credentials().x509_ca();
    manager.replace_tainted(&tainted).await.unwrap();
    assert_eq!(manager.credentials().x509_ca(), ca);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_ends_in_a_failure_begins_again() {
    let scene = Scene::new().await;
    let (send, receive) = mpsc::unbounded_channel();
    *scene.above.bundles.lock().unwrap() = Some(receive);
    let manager = scene.started().await;
    let (stop, watcher) = drain::channel();
    let mut updates = manager.bundle_updates();
    let script = async {
        send.send(Err(refusal(Code::Unavailable, "gone"))).unwrap();
        let (send, receive) = mpsc::unbounded_channel();
        scene.above.rotate().await;
        send.send(Ok(scene.above.bundle())).unwrap();
        *scene.above.bundles.lock().unwrap() = Some(receive);
        wait(&mut updates, || scene.roots().len() == 2).await;
        stop.drain(Duration::from_secs(1)).await;
    };
    tokio::join!(manager.clone().run(watcher), script);
}

#[tokio::test(start_paused = true)]
async fn an_operator_taints_and_revokes_only_the_root_of_the_old_ca() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    let old = scene.above.id();
    let local = manager.authorities(AuthorityKind::X509).await.unwrap().active.authority_id;
    let refused = |result: Result<String, AuthorityError>| result.unwrap_err().to_string();

    assert!(
        refused(manager.taint_upstream_authority("").await).ends_with("no subject key ID provided")
    );
    assert_eq!(
        refused(manager.taint_upstream_authority(&old).await),
        "provided subject key id is not valid: unable to use upstream authority singing current \
         authority"
    );
    assert_eq!(
        refused(manager.revoke_upstream_authority("ab").await),
        "invalid subject key ID: upstream authority didn't sign the old local authority"
    );
    scene.above.rotate().await;
    let prepared = manager.prepare_authority(AuthorityKind::X509).await.unwrap();
    assert!(
        refused(manager.taint_upstream_authority(&scene.above.id()).await)
            .ends_with("only upstream authorities signing an old authority can be used")
    );
    manager.activate_authority(AuthorityKind::X509, &prepared.authority_id).await.unwrap();
    let own = manager.taint_authority(AuthorityKind::X509, &local).await.unwrap_err();
    assert_eq!(
        (own.code(), own.to_string()),
        (
            Code::FailedPrecondition,
            "local authority can't be tainted if there is an upstream authority".into()
        )
    );
    assert_eq!(manager.taint_upstream_authority(&old.to_uppercase()).await.unwrap(), old);
    assert!(scene.roots().contains(&(old.clone(), true)));
    assert_eq!(manager.revoke_upstream_authority(&old).await.unwrap(), old);
    assert_eq!(scene.roots(), [(scene.above.id(), false)]);
}

/// Waits for a change of the bundle after which `done` holds.
async fn wait(updates: &mut watch::Receiver<u64>, done: impl Fn() -> bool) {
    let changed = async {
        while !done() {
            updates.changed().await.unwrap();
        }
    };
    tokio::time::timeout(HOUR, changed).await.expect("the change comes");
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_look_while_the_upstream_hangs() {
    let scene = Scene::new().await;
    let manager = scene.started().await;
    let before = manager.authorities(AuthorityKind::X509).await.unwrap();
    scene.above.behave(Manner::Hangs);
    let preparing = manager.prepare_authority(AuthorityKind::X509);
    let looking = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let began = tokio::time::Instant::now();
        let seen = manager.authorities(AuthorityKind::X509).await.unwrap();
        assert_eq!((seen, began.elapsed()), (before, Duration::ZERO));
    };
    let (prepared, ()) = tokio::join!(preparing, looking);
    assert!(prepared.unwrap_err().to_string().contains("no answer within 60 seconds"));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_another_server_has_marked_already_is_replaced_here_too() {
    let scene = Scene::new().await;
    let (send, receive) = mpsc::unbounded_channel();
    *scene.above.bundles.lock().unwrap() = Some(receive);
    let manager = scene.started().await;
    let old = scene.above.id();
    scene.above.rotate().await;
    scene.above.mark_tainted(&old);
    scene.world.durable().bundle.as_mut().unwrap().x509_authorities[0].tainted = true;
    send.send(Ok(scene.above.bundle())).unwrap();
    let (stop, watcher) = drain::channel();
    let mut tainted = manager.tainted_authorities();
    let script = async {
        let told = tainted.wait_for(|all| !all.is_empty());
        let _ = tokio::time::timeout(HOUR, told).await.unwrap();
        assert_eq!(scene.verifies_under(&manager).await, scene.above.id());
        // Hearing it again is no reason to make another.
        let minted = *scene.above.minted.lock().unwrap();
        send.send(Ok(scene.above.bundle())).unwrap();
        tokio::time::sleep(HOUR / 10).await;
        assert_eq!(*scene.above.minted.lock().unwrap(), minted);
        stop.drain(Duration::from_secs(1)).await;
    };
    tokio::join!(manager.clone().run(watcher), script);
}
