use std::sync::Mutex;

use super::*;

/// What a sink was told, in order.
#[derive(Default)]
struct Spy {
    with_kind: bool,
    told: Arc<Mutex<Vec<(String, f64)>>>,
    made: AtomicUsize,
}

struct SpyRecorder {
    name: String,
    told: Arc<Mutex<Vec<(String, f64)>>>,
}

impl Sink for Spy {
    fn wants_kind(&self) -> bool {
        self.with_kind
    }

    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let labels: Vec<String> = name.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let name = format!("{}{{{}}}", name.key.join("."), labels.join(","));
        Box::new(SpyRecorder { name, told: Arc::clone(&self.told) })
    }
}

impl Recorder for SpyRecorder {
    fn record(&self, value: f64) {
        self.told.lock().unwrap().push((self.name.clone(), value));
    }
}

fn config() -> Config {
    Config {
        trust_domain: Some("example.org".into()),
        host: Some("a-host.b".into()),
        ..Config::new("spire_server")
    }
}

#[test]
fn a_series_is_prepared_once_and_carries_the_common_labels_last() {
    let spy = Arc::new(Spy::default());
    let registry = Registry::new(config(), vec![spy.clone()]);
    for value in [1.0, 2.0] {
        registry.record(Scope::Common, Kind::Counter, &["a", "b"], value, &[("status", "OK")]);
    }
    registry.record(Scope::Process, Kind::Gauge, &["runtime", "x"], 3.0, &[]);
    let common = "spire_server.a.b{status=OK,trust_domain=example_org,host=a-host.b}";
    let process = "spire_server.runtime.x{host=a-host.b}";
    let told = spy.told.lock().unwrap().clone();
    assert_eq!(
        told,
        [(common.into(), 1.0), (common.into(), 2.0), (process.into(), 3.0)] as [(String, f64); 3]
    );
    assert_eq!(spy.made.load(Ordering::Relaxed), 2);
}

#[test]
fn key_and_label_boundaries_are_kept_apart() {
    let spy = Arc::new(Spy::default());
    let registry = Registry::new(Config::new("p"), vec![spy.clone()]);
    registry.record(Scope::Common, Kind::Counter, &["ab", "c"], 1.0, &[]);
    registry.record(Scope::Common, Kind::Counter, &["a", "bc"], 1.0, &[]);
    registry.record(Scope::Common, Kind::Gauge, &["a", "bc"], 1.0, &[]);
    registry.record(Scope::Common, Kind::Counter, &["a"], 1.0, &[("bc", "")]);
    assert_eq!(spy.made.load(Ordering::Relaxed), 4);
}

#[test]
fn filters_see_the_kind_only_where_the_sink_wants_it() {
    let plain = Arc::new(Spy::default());
    let typed = Arc::new(Spy { with_kind: true, ..Spy::default() });
    let config = Config { blocked_prefixes: vec!["p.counter".into()], ..Config::new("p") };
    let registry = Registry::new(config, vec![plain.clone(), typed.clone()]);
    registry.record(Scope::Common, Kind::Counter, &["a"], 1.0, &[]);
    registry.record(Scope::Common, Kind::Timer, &["a"], 1.0, &[]);
    assert_eq!(plain.told.lock().unwrap().len(), 2);
    assert_eq!(*typed.told.lock().unwrap(), [("p.timer.a{}".to_owned(), 1.0)]);
}

#[test]
fn the_number_of_series_is_bounded() {
    let spy = Arc::new(Spy::default());
    let registry = Registry::new(Config::new("p"), vec![spy.clone()]);
    for n in 0..MAX_SERIES + 50 {
        registry.record(Scope::Common, Kind::Counter, &["a"], 1.0, &[("n", &n.to_string())]);
    }
    assert_eq!(spy.made.load(Ordering::Relaxed), MAX_SERIES);
    registry.record(Scope::Common, Kind::Counter, &["a"], 1.0, &[("n", "7")]);
    assert_eq!(spy.told.lock().unwrap().len(), MAX_SERIES + 1, "known series go on");
}

#[test]
fn nothing_is_recorded_or_costs_much_once_the_guard_is_gone() {
    let _global = crate::GLOBAL.lock().unwrap_or_else(PoisonError::into_inner);
    let spy = Arc::new(Spy::default());
    let guard = install(Config::new("p"), vec![spy.clone()]);
    assert!(is_enabled());
    crate::incr(&["one"], 1.0, &[]);
    let call = crate::call(&["two"]).with("what", "it");
    call.ok();
    drop(crate::call(&["three"]));
    drop(guard);
    crate::incr(&["four"], 1.0, &[]);
    assert!(!is_enabled());
    let names: Vec<String> =
        spy.told.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(
        names,
        [
            "p.one{}",
            "p.two{what=it,status=OK}",
            "p.two.elapsed_time{what=it,status=OK}",
            "p.three{status=Canceled}",
            "p.three.elapsed_time{status=Canceled}"
        ]
    );

    // The best of many rounds, for busy machines and unoptimised builds.
    let rounds = (0..50).map(|_| {
        let start = std::time::Instant::now();
        for _ in 0..100 {
            crate::incr(&["never"], 1.0, &[]);
        }
        start.elapsed() / 100
    });
    let best = rounds.min().unwrap();
    assert!(best < std::time::Duration::from_micros(1), "{best:?} a call without sinks");
}
