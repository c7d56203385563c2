//! The driver in a world that fails and kills: whatever happens, no authority is used that is not
//! in journal and bundle, and none is made that is not due.

use std::time::SystemTime;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use steeple_pki::PrivateKey;
use steeple_pki::{KeyType, x509::Certificate};
use steeple_proto::journal::Status;
use steeple_runtime::{Clock, ManualClock};
use steeple_spiffe::SpiffeId;

use super::*;
use crate::credentials::{WorkloadJwtParams, WorkloadWitParams, WorkloadX509Params};
use crate::error::CaError;
use crate::testing::{DAY, Fault, HOUR, World, config, noon, run};

fn started(world: &World, config: &CaConfig, clock: &ManualClock) -> CaManager {
    let manager = run(world.start(config, clock)).unwrap().unwrap();
    run(manager.initialize()).unwrap().unwrap();
    manager
}

fn x509_params(world_key: &PrivateKey) -> WorkloadX509Params {
    WorkloadX509Params {
        spiffe_id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
        public_key: world_key.public_key().clone(),
        ttl: None,
        dns_names: vec![],
        subject: None,
    }
}

fn active_id(manager: &CaManager) -> String {
    manager.credentials().x509_ca().unwrap().authority_id()
}

#[test]
fn a_first_start_makes_one_authority_of_each_kind() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let manager = started(&world, &config(), &clock);
    let bundle = world.durable().bundle.clone().unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    let entries = world.entries();
    assert_eq!(entries.x509_c_as[0].status(), Status::Active);
    assert_eq!(entries.jwt_keys[0].status(), Status::Active);
    assert_eq!(world.durable().journals[0].active_x509_authority_id, active_id(&manager));
    assert_eq!(
        world.durable().keys.keys().collect::<Vec<_>>(),
        ["JWT-Signer-A", "x509-CA-A"],
        "ids of SPIRE's keys"
    );
}

#[test]
fn a_restart_goes_on_with_the_same_authorities_and_writes_nothing() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let first = started(&world, &config(), &clock);
    let operations = world.durable().operations;
    let second = started(&world, &config(), &clock);
    assert_eq!(active_id(&second), active_id(&first));
    assert_eq!(second.credentials().jwt_key_id(), first.credentials().jwt_key_id());
    assert_eq!(world.durable().operations, operations);
}

#[test]
fn a_restart_makes_anew_only_what_does_not_agree() {
    type Damage = fn(&World);
    let damages: [(&str, Damage, bool, bool); 5] = [
        ("CA key lost", |w| drop(w.durable().keys.remove("x509-CA-A")), true, true),
        ("JWT key lost", |w| drop(w.durable().keys.remove("JWT-Signer-A")), false, true),
        (
            "JWT key replaced",
            |w| {
                let key = PrivateKey::generate(KeyType::EcP256).unwrap();
                w.durable().keys.insert("JWT-Signer-A".into(), Arc::new(key));
            },
            false,
            true,
        ),
        (
            "root revoked",
            |w| w.durable().bundle.as_mut().unwrap().x509_authorities.clear(),
            true,
            false,
        ),
        ("bundle lost", |w| w.durable().bundle = None, true, true),
    ];
    for (what, damage, x509_is_new, jwt_is_new) in damages {
        let (world, clock) = (World::new(), ManualClock::new(noon()));
        let before = started(&world, &config(), &clock);
        damage(&world);
        let after = started(&world, &config(), &clock);
        assert_eq!(active_id(&after) != active_id(&before), x509_is_new, "{what}");
        let (before, after) = (before.credentials(), after.credentials());
        assert_eq!(after.jwt_key_id() != before.jwt_key_id(), jwt_is_new, "{what}");
    }
}

#[test]
fn an_authority_from_the_future_signs_nothing_and_the_next_tick_replaces_it() {
    let (world, clock) = (World::new(), ManualClock::new(noon() + DAY));
    let manager = started(&world, &config(), &clock);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let credentials = manager.credentials();
    let sign = || run(credentials.sign_x509_svid(x509_params(&key), clock.now())).unwrap();
    // As clocks are when they are kept right.
    clock.set(noon() + DAY - Duration::from_secs(60));
    assert!(sign().is_ok());
    clock.set(noon());
    assert!(matches!(sign(), Err(CaError::X509CaNotYetValid(_))), "{:?}", sign());
    run(manager.tick()).unwrap().unwrap();
    let chain = sign().unwrap();
    assert!(chain[0].not_before() <= noon());
}

#[test]
fn an_expired_authority_signs_nothing_and_the_next_tick_replaces_it() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let manager = started(&world, &config(), &clock);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    clock.advance(DAY * 400);
    let credentials = manager.credentials();
    let refused = run(credentials.sign_x509_svid(x509_params(&key), clock.now())).unwrap();
    assert!(matches!(refused, Err(CaError::X509CaExpired(_))), "{refused:?}");
    let jwt = WorkloadJwtParams {
        spiffe_id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
        audience: vec!["db".into()],
        ttl: None,
        include_jti: false,
    };
    let refused = run(credentials.sign_jwt_svid(jwt, clock.now())).unwrap();
    assert!(matches!(refused, Err(CaError::JwtKeyExpired(_))));

    run(manager.tick()).unwrap().unwrap();
    let chain = run(credentials.sign_x509_svid(x509_params(&key), clock.now())).unwrap().unwrap();
    assert_eq!(chain[0].not_after(), clock.now() + HOUR);
}

#[test]
fn failures_are_counted_until_one_round_succeeds() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let manager = started(&world, &config(), &clock);
    clock.advance(13 * HOUR);
    for round in 1..=3 {
        world.durable().fault = Some((0, Fault::Fail));
        run(manager.tick()).unwrap().unwrap_err();
        assert_eq!(manager.rotation_failures(), round);
    }
    run(manager.tick()).unwrap().unwrap();
    assert_eq!(manager.rotation_failures(), 0);
}

#[test]
fn a_server_that_has_a_ca_starts_although_its_successor_cannot_be_made() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    started(&world, &config(), &clock);
    clock.advance(23 * HOUR);
    let manager = run(world.start(&config(), &clock)).unwrap().unwrap();
    world.durable().fault = Some((0, Fault::Fail));
    run(manager.initialize()).unwrap().unwrap();

    let empty = World::new();
    let manager = run(empty.start(&config(), &clock)).unwrap().unwrap();
    empty.durable().fault = Some((0, Fault::Fail));
    run(manager.initialize()).unwrap().unwrap_err();
}

#[test]
fn without_jwt_there_are_no_jwt_keys() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let config = CaConfig { disable_jwt: true, ..config() };
    let manager = started(&world, &config, &clock);
    assert_eq!(world.durable().keys.keys().collect::<Vec<_>>(), ["x509-CA-A"]);
    let refused = run(manager.authorities(AuthorityKind::Jwt)).unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "JWT functionality is disabled");
    assert!(manager.credentials().jwt_key_id().is_none());
}

#[test]
fn an_operator_rotates_taints_and_revokes() {
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        let (world, clock) = (World::new(), ManualClock::new(noon()));
        let manager = started(&world, &config(), &clock);
        let first = run(manager.authorities(kind)).unwrap().unwrap().active;
        let revoke = |id: &str| run(manager.revoke_authority(kind, id)).unwrap();

        let second = run(manager.prepare_authority(kind)).unwrap().unwrap();
        let states = run(manager.authorities(kind)).unwrap().unwrap();
        assert_eq!((&states.active, states.prepared.as_ref()), (&first, Some(&second)));
        revoke(&second.authority_id).unwrap_err();

        let active = run(manager.activate_authority(kind, &second.authority_id)).unwrap().unwrap();
        assert_eq!(active, second);
        let states = run(manager.authorities(kind)).unwrap().unwrap();
        assert_eq!((&states.active, states.old.as_ref()), (&second, Some(&first)));
        assert_eq!(revoke(&second.authority_id).unwrap_err().to_string(), REVOKE_CURRENT);

        let restarted = started(&world, &config(), &clock);
        let states = run(restarted.authorities(kind)).unwrap().unwrap();
        assert_eq!(states.old.as_ref(), Some(&first), "the old one is known after a restart");

        run(manager.taint_authority(kind, &first.authority_id)).unwrap().unwrap();
        let tainted = manager.tainted_authorities().borrow().len();
        assert_eq!(tainted, usize::from(kind == AuthorityKind::X509));
        revoke(&first.authority_id).unwrap();
        let bundle = world.durable().bundle.clone().unwrap();
        let gone = match kind {
            AuthorityKind::X509 => {
                bundle.certificates().all(|root| root.authority_id() != first.authority_id)
            }
            AuthorityKind::Jwt => bundle.find_jwt_authority(&first.authority_id).is_none(),
        };
        assert!(gone);
    }
}

#[test]
fn preparing_twice_replaces_the_prepared_authority() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let manager = started(&world, &config(), &clock);
    for _ in 0..25 {
        run(manager.prepare_authority(AuthorityKind::X509)).unwrap().unwrap();
    }
    let rows = world.entries().x509_c_as;
    assert_eq!(rows.len(), 10);
    let of = |status| rows.iter().filter(|row| row.status() == status).count();
    assert_eq!((of(Status::Active), of(Status::Prepared)), (1, 1), "the active one is kept");
    let restarted = started(&world, &config(), &clock);
    assert_eq!(active_id(&restarted), active_id(&manager));
}

#[tokio::test]
async fn a_drain_ends_the_driver() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let manager = started(&world, &config(), &clock);
    let (drain, watcher) = steeple_runtime::drain::channel();
    let ((), drained) = tokio::join!(manager.run(watcher), drain.drain(Duration::from_secs(10)));
    assert!(drained);
}

#[test]
fn the_log_lines_are_those_that_scripts_look_for() {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_writer(lines.clone()).with_max_level(tracing::Level::DEBUG);
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    // While there is but one subscriber, tracing asks the thread that comes to a line first
    // whether anybody listens; in another test's thread nobody does.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
        let manager = started(&world, &config(), &clock);
        let kind = AuthorityKind::Jwt;
        let next = run(manager.prepare_authority(kind)).unwrap().unwrap().authority_id;
        run(manager.activate_authority(kind, &next)).unwrap().unwrap();
        let old = run(manager.authorities(kind)).unwrap().unwrap().old.unwrap().authority_id;
        run(manager.taint_authority(kind, &old)).unwrap().unwrap();
        run(manager.revoke_authority(kind, &old)).unwrap().unwrap();
    });
    let entries = world.entries();
    let (ca, kid) = (&entries.x509_c_as[0].authority_id, &entries.jwt_keys[0].authority_id);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let has = |message: &str, fields: &[&str]| {
        let found = text
            .lines()
            .any(|line| line.contains(message) && fields.iter().all(|field| line.contains(field)));
        assert!(found, "{message} {fields:?} in\n{text}");
    };
    let times = "issued_at=\"2026-11-22 12:00:00 +0000 UTC\" \
                 expiration=\"2026-11-23 12:00:00 +0000 UTC\"";
    let ca = format!("local_authority_id=\"{ca}\" upstream_authority_id=\"\"");
    has("X509 CA prepared", &["slot=\"A\"", times, "self_signed=true", &ca]);
    has("X509 CA activated", &["subsystem_name=\"ca_manager\"", "slot=\"A\"", times, &ca]);
    has(
        "Successfully rotated X.509 CA",
        &["trust_domain_id=\"spiffe://example.org\"", "ttl=86400"],
    );
    has("JWT key prepared", &["slot=\"A\"", times, &format!("local_authority_id=\"{kid}\"")]);
    has("JWT key activated", &["slot=\"B\"", times]);
    has("JWT authority tainted successfully", &[kid]);
    has("JWT authority revoked successfully", &[kid]);
    has("Journal loaded", &["x509_cas=0 jwt_keys=0 wit_keys=0"]);
    assert!(text.lines().all(|line| !line.contains("JWT key") || !line.contains("upstream")));
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

const REVOKE_CURRENT: &str = "invalid authority ID: unable to use current authority";

/// One step of a replay: the clock moves on, perhaps something is to go wrong, then this happens.
#[derive(Clone, Debug)]
struct Round {
    /// In thousandths of the lifetime of an authority.
    wait: u32,
    fault: Option<(usize, Fault)>,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Tick,
    Prepare,
    ActivateNext,
    Restart,
}

fn round() -> impl Strategy<Value = Round> {
    let fault = prop_oneof![
        Just(Fault::Fail),
        Just(Fault::LoseAnswer),
        Just(Fault::KillBefore),
        Just(Fault::KillAfter),
    ];
    let then = prop_oneof![
        12 => Just(Then::Tick),
        1 => Just(Then::Prepare),
        1 => Just(Then::ActivateNext),
        1 => Just(Then::Restart),
    ];
    let wait = prop_oneof![8 => 0..250_u32, 1 => 0..3000_u32];
    (wait, prop::option::weighted(0.6, (0..8_usize, fault)), then)
        .prop_map(|(wait, fault, then)| Round { wait, fault, then })
}

struct Replay {
    world: World,
    clock: ManualClock,
    config: CaConfig,
    manager: Option<CaManager>,
    workload: PrivateKey,
    /// When the newest X.509 authority in the bundle was made, and by whom.
    newest: Option<SystemTime>,
    by_operator: bool,
    known: usize,
}

impl Replay {
    fn new(ca_ttl: Duration) -> Self {
        Self {
            world: World::new(),
            clock: ManualClock::new(noon()),
            config: CaConfig { ca_ttl, ..config() },
            manager: None,
            workload: PrivateKey::generate(KeyType::EcP256).unwrap(),
            newest: None,
            by_operator: false,
            known: 0,
        }
    }

    fn round(&mut self, round: &Round) {
        self.clock.advance(self.config.ca_ttl * round.wait / 1000);
        self.check_before();
        self.world.durable().fault = round.fault;
        let survived = match (&self.manager, round.then) {
            (None, _) | (_, Then::Restart) => self.start(),
            (Some(manager), Then::Tick) => run(manager.tick()).is_some(),
            (Some(manager), Then::Prepare) => {
                self.by_operator = true;
                run(manager.prepare_authority(AuthorityKind::X509)).is_some()
                    && run(manager.prepare_authority(AuthorityKind::Jwt)).is_some()
            }
            (Some(manager), Then::ActivateNext) => {
                let states = run(manager.authorities(AuthorityKind::X509)).unwrap();
                match states.ok().and_then(|states| states.prepared) {
                    Some(next) => {
                        let id = &next.authority_id;
                        run(manager.activate_authority(AuthorityKind::X509, id)).is_some()
                    }
                    None => true,
                }
            }
        };
        self.world.durable().fault = None;
        if !survived {
            self.manager = None;
        }
        self.check_after();
    }

    /// A process start: load and first round. `false` when it was killed.
    fn start(&mut self) -> bool {
        let expected = self.agreed_active();
        let manager = run(self.world.start(&self.config, &self.clock))
            .expect("loading changes nothing, so nothing is killed")
            .unwrap();
        let found = manager.credentials().x509_ca();
        if let Some(expected) = expected {
            assert_eq!(found.as_ref(), Some(&expected), "goes on with what agrees");
        }
        let survived = run(manager.initialize()).is_some();
        self.manager = Some(manager);
        survived
    }

    /// The CA that the journal says is active, when key and bundle agree and it has not expired.
    fn agreed_active(&self) -> Option<Certificate> {
        let rows = self.world.entries().x509_c_as;
        let row = rows.iter().find(|row| row.status() == Status::Active)?;
        let certificate = Certificate::from_der(row.certificate.clone()).unwrap();
        let durable = self.world.durable();
        let key = durable.keys.get(&format!("x509-CA-{}", row.slot_id))?;
        let agrees = key.public_key() == certificate.public_key()
            && durable.bundle.as_ref()?.has_x509_authority(&certificate)
            && self.clock.now() <= certificate.not_after();
        agrees.then_some(certificate)
    }

    /// A process that was not killed can sign unless its CA has expired meanwhile.
    fn check_before(&self) {
        let Some(manager) = &self.manager else { return };
        let now = self.clock.now();
        let credentials = manager.credentials();
        let ca = credentials.x509_ca();
        match run(credentials.sign_x509_svid(x509_params(&self.workload), now)).unwrap() {
            Ok(chain) => {
                let ca = ca.unwrap();
                chain[0].verify_signed_by(ca.public_key()).unwrap();
                assert!(chain[0].not_after() <= ca.not_after() && now < ca.not_after());
            }
            Err(CaError::X509CaExpired(at)) => assert!(now >= at),
            Err(CaError::NoX509Ca) => assert!(ca.is_none()),
            Err(other) => panic!("{other}"),
        }
    }

    fn check_after(&mut self) {
        let entries = self.world.entries();
        let active = |statuses: Vec<Status>| {
            statuses.iter().filter(|status| **status == Status::Active).count()
        };
        assert!(active(entries.x509_c_as.iter().map(|row| row.status()).collect()) <= 1);
        assert!(active(entries.jwt_keys.iter().map(|row| row.status()).collect()) <= 1);
        assert!(entries.x509_c_as.len() <= 10 && entries.jwt_keys.len() <= 10);
        let durable = self.world.durable();
        assert!(durable.keys.len() <= 4, "no more keys than slots");
        if let Some(manager) = &self.manager {
            let credentials = manager.credentials();
            if let Some(ca) = credentials.x509_ca() {
                assert!(durable.bundle.as_ref().unwrap().has_x509_authority(&ca));
                assert!(entries.x509_c_as.iter().any(|row| row.certificate == ca.der()));
                let key_is_there =
                    |key: &Arc<dyn steeple_pki::Signer>| key.public_key() == ca.public_key();
                assert!(durable.keys.values().any(key_is_there));
            }
            if let Some(kid) = credentials.jwt_key_id() {
                let bundle = durable.bundle.as_ref().unwrap();
                assert!(bundle.find_jwt_authority(&kid).is_some());
                assert!(entries.jwt_keys.iter().any(|row| row.kid == kid));
            }
        }
        // An authority is made only when half the life of the one before has passed.
        let roots = durable.bundle.iter().flat_map(|bundle| &bundle.x509_authorities);
        let roots = roots.map(|root| root.certificate.clone()).collect::<Vec<_>>();
        drop(durable);
        for root in &roots[self.known..] {
            let issued_at = root.not_after() - self.config.ca_ttl;
            if let Some(newest) = self.newest.filter(|_| !self.by_operator) {
                let distance = issued_at.duration_since(newest).unwrap();
                assert!(distance >= self.config.ca_ttl / 2, "too early: {distance:?}");
            }
            self.newest = Some(issued_at);
        }
        self.known = roots.len();
    }

    /// After all that, one start without trouble and one round are enough.
    fn recover(mut self) {
        self.manager = None;
        assert!(self.start());
        let credentials = self.manager.as_ref().unwrap().credentials();
        let now = self.clock.now();
        run(credentials.sign_x509_svid(x509_params(&self.workload), now)).unwrap().unwrap();
        let jwt = WorkloadJwtParams {
            spiffe_id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
            audience: vec!["db".into()],
            ttl: None,
            include_jti: true,
        };
        run(credentials.sign_jwt_svid(jwt, now)).unwrap().unwrap();
        self.check_after();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(25), // the same everywhere; 1,500 others were tried by hand
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_fault_and_no_kill_breaks_the_rules(
        ca_ttl in prop_oneof![Just(60_u64), Just(24 * 3600), Just(90 * 24 * 3600)],
        rounds in prop::collection::vec(round(), 1..200),
    ) {
        let mut replay = Replay::new(Duration::from_secs(ca_ttl));
        for round in &rounds {
            replay.round(round);
        }
        replay.recover();
    }
}

#[test]
fn a_year_without_trouble_has_as_many_authorities_as_it_needs() {
    let mut replay = Replay::new(DAY);
    let year = noon() + DAY * 365;
    let mut lives = 0;
    let mut active = None;
    while replay.clock.now() < year {
        replay.round(&Round { wait: 40, fault: None, then: Then::Tick });
        let now_active = replay.manager.as_ref().map(active_id);
        lives += u32::from(now_active != active);
        active = now_active;
    }
    // Each takes over from one with a sixth of its life left, having waited a third of its own.
    assert!((700..=740).contains(&lives), "{lives}");
    replay.recover();
}

#[test]
fn wit_keys_exist_only_with_the_flag_and_survive_a_restart() {
    let (world, clock) = (World::new(), ManualClock::new(noon()));
    let without = started(&world, &config(), &clock);
    let params = || WorkloadWitParams {
        spiffe_id: SpiffeId::parse("spiffe://example.org/web").unwrap(),
        public_key: PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone(),
        algorithm: "ES256".into(),
        ttl: None,
    };
    let refused = run(without.credentials().sign_wit_svid(params(), clock.now())).unwrap();
    assert!(matches!(refused, Err(CaError::NoWitKey)));
    assert!(world.entries().wit_keys.is_empty());

    let issuer = Some("https://issuer".to_owned());
    let config = CaConfig {
        enable_wit: true,
        wit_key_type: KeyType::EcP384,
        wit_issuer: issuer,
        ..config()
    };
    let manager = started(&world, &config, &clock);
    let [row] = world.entries().wit_keys.try_into().unwrap();
    assert_eq!((row.slot_id.as_str(), row.status()), ("A", Status::Active));
    assert!(world.durable().keys.contains_key("WIT-Signer-A"));
    let published = world.durable().bundle.clone().unwrap().wit_authorities;
    assert_eq!(published.iter().map(|key| &*key.key_id).collect::<Vec<_>>(), [&*row.kid]);

    let svid = run(manager.credentials().sign_wit_svid(params(), clock.now())).unwrap().unwrap();
    let part = |index: usize| -> serde_json::Value {
        use base64::Engine as _;
        let part = svid.token.split('.').nth(index).unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    assert_eq!(part(0), serde_json::json!({ "alg": "ES384", "kid": row.kid, "typ": "wit+jwt" }));
    let claims = part(1);
    assert_eq!(claims["sub"], "spiffe://example.org/web");
    assert_eq!(claims["iss"], "https://issuer");
    assert_eq!(claims["cnf"]["jwk"]["alg"], "ES256");
    assert_eq!(claims["cnf"]["jwk"]["crv"], "P-256");
    assert!(claims["cnf"]["jwk"].get("d").is_none());
    assert!(claims.get("aud").is_none());
    assert_eq!(svid.expires_at, clock.now() + HOUR);

    let operations = world.durable().operations;
    let again = started(&world, &config, &clock);
    assert_eq!(world.durable().operations, operations, "nothing is made anew");
    assert!(run(again.credentials().sign_wit_svid(params(), clock.now())).unwrap().is_ok());
    clock.advance(DAY * 2);
    let expired = run(again.credentials().sign_wit_svid(params(), clock.now())).unwrap();
    assert!(matches!(expired, Err(CaError::WitKeyExpired(_))));
    run(again.tick()).unwrap().unwrap();
    assert!(run(again.credentials().sign_wit_svid(params(), clock.now())).unwrap().is_ok());
}
