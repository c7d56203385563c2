//! Health checks: a task that looks, and an HTTP listener that tells.
//!
//! Checks run every second until all is well, then once a minute, or soon after
//! the program noticed by itself that a result is out of date; requests are
//! answered from the last results.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Map, Value};
use steeple_config::HealthChecks;
use steeple_runtime::Watcher;
use steeple_web::{Limits, Request, Response, reply, serve};

use crate::bind_in_time;

const SUBSYSTEM: &str = "health";
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const STEADY_INTERVAL: Duration = Duration::from_secs(60);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it is still starting, when failures are expected.
    pub starting: bool,
    /// Whether it works, or can recover while the process lives.
    pub live: bool,
    /// Whether it can do its work.
    pub ready: bool,
    /// Told under `/live`: names and texts.
    pub live_details: Vec<(&'static str, String)>,
    /// Told under `/ready`.
    pub ready_details: Vec<(&'static str, String)>,
}

impl State {
    /// All is well.
    pub fn good() -> Self {
        Self {
            starting: false,
            live: true,
            ready: true,
            live_details: Vec::new(),
            ready_details: Vec::new(),
        }
    }

    /// Neither live nor ready, for this reason.
    pub fn failed(name: &'static str, reason: impl Into<String>) -> Self {
        let details = vec![(name, reason.into())];
        Self {
            starting: false,
            live: false,
            ready: false,
            live_details: details.clone(),
            ready_details: details,
        }
    }

    /// Why it counts as failed.
    fn error(&self) -> Option<&'static str> {
        match (self.ready, self.live) {
            (true, true) => None,
            (true, false) => Some("subsystem is not live"),
            (false, true) => Some("subsystem is not ready"),
            (false, false) => Some("subsystem is not live or ready"),
        }
    }

    /// As Go prints a struct of SPIRE's: `{<nil> false false {x} {x}}`.
    fn shown(&self) -> String {
        let texts = |details: &[(&str, String)]| {
            let texts: Vec<&str> = details.iter().map(|(_, text)| text.as_str()).collect();
            format!("{{{}}}", texts.join(" "))
        };
        let (live, ready) = (texts(&self.live_details), texts(&self.ready_details));
        format!("{{<nil> {} {} {live} {ready}}}", self.live, self.ready)
    }
}

/// A check, run anew each time.
pub type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = State> + Send>> + Send + Sync>;

/// What a program notices by itself between two looks.
pub struct Hint {
    /// The check that it is about.
    pub check: &'static str,
    /// Whether that check would fail at this moment. Asked every second: it must cost nothing.
    pub fails: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The checks of a program and what they found last.
pub struct Health {
    checks: BTreeMap<&'static str, Check>,
    /// Nothing before the first look.
    states: Mutex<BTreeMap<&'static str, Option<State>>>,
}

/// A row of failures of one check.
#[derive(Clone, Copy)]
struct Failing {
    since: Instant,
    failures: u32,
    error: &'static str,
}

impl Health {
    /// Before the first look everything counts as bad: nothing was seen yet.
    pub fn new(checks: impl IntoIterator<Item = (&'static str, Check)>) -> Arc<Self> {
        let checks: BTreeMap<_, _> = checks.into_iter().collect();
        let states = checks.keys().map(|name| (*name, None)).collect();
        Arc::new(Self { checks, states: Mutex::new(states) })
    }

    /// Keeps the results fresh until the drain begins. With a hint that contradicts what was
    /// found last it looks again at once.
    pub async fn watch(self: Arc<Self>, hint: Option<Hint>, mut drain: Watcher) {
        tracing::debug!(subsystem_name = SUBSYSTEM, "Initializing health checkers");
        let mut failing = BTreeMap::new();
        let mut steady = false;
        let mut soon = FIRST_INTERVAL;
        loop {
            let mut well = true;
            for (name, check) in &self.checks {
                let state = tokio::select! {
                    state = check() => state,
                    () = drain.signalled() => break,
                };
                tell(name, &state, &mut failing);
                well &= state.error().is_none();
                self.states
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name, Some(state));
            }
            steady |= well;
            let contradicted =
                || hint.as_ref().is_some_and(|it| (it.fails)() != failing.contains_key(it.check));
            // A hint that stays wrong is believed more and more seldom.
            soon = if contradicted() { (soon * 2).min(STEADY_INTERVAL) } else { FIRST_INTERVAL };
            let pause = async {
                if !steady {
                    return tokio::time::sleep(FIRST_INTERVAL).await;
                }
                let began = Instant::now();
                while began.elapsed() < STEADY_INTERVAL {
                    tokio::time::sleep(FIRST_INTERVAL).await;
                    if began.elapsed() >= soon && contradicted() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pause => {}
                () = drain.signalled() => break,
            }
        }
        tracing::debug!(subsystem_name = SUBSYSTEM, "Finishing health checker");
    }

    /// Serves `/live` and `/ready` until the drain begins. An address that
    /// cannot be had is a warning, as in SPIRE.
    pub async fn listen(self: Arc<Self>, checks: HealthChecks, drain: Watcher) {
        let host = checks.bind_address.trim_matches(['[', ']']);
        let address = match host.contains(':') {
            true => format!("[{host}]:{}", checks.bind_port),
            false => format!("{host}:{}", checks.bind_port),
        };
        tracing::info!(subsystem_name = SUBSYSTEM, address, "Serving health checks");
        let warn = |error: &std::io::Error| {
            tracing::warn!(subsystem_name = SUBSYSTEM, %error, "Error serving health checks");
        };
        let listener = match bind_in_time(address, drain.clone(), warn).await {
            Ok(Some(listener)) => listener,
            Ok(None) => return,
            Err(error) => return warn(&error),
        };
        let limits = limits();
        let handler = move |request: Request| {
            let answer = self.answer(request.uri().path(), &checks);
            async move { answer }
        };
        serve(listener, None, handler, limits, drain).await;
    }

    /// What is told under a path.
    fn answer(&self, path: &str, checks: &HealthChecks) -> Response {
        let ready = if path == checks.ready_path {
            true
        } else if path == checks.live_path {
            false
        } else {
            return reply::not_found();
        };
        let mut body = Map::new();
        let mut good = true;
        for (name, state) in &*self.states.lock().unwrap_or_else(PoisonError::into_inner) {
            let Some(state) = state else {
                good = false;
                body.insert(name.to_string(), Value::Null);
                continue;
            };
            let (well, details) = match ready {
                true => (state.ready, &state.ready_details),
                false => (state.live, &state.live_details),
            };
            good &= well;
            let details: Map<String, Value> = details
                .iter()
                .map(|(name, text)| (name.to_string(), text.clone().into()))
                .collect();
            body.insert(name.to_string(), details.into());
        }
        let mut response = reply::content("application/json", format!("{}\n", Value::Object(body)));
        if !good {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }
}

/// Logs what a check found, with upstream's lines.
fn tell(check: &'static str, state: &State, failing: &mut BTreeMap<&'static str, Failing>) {
    let before = failing.remove(check);
    let details = state.shown();
    let Some(error) = state.error() else {
        if let Some(Failing { since, failures, error }) = before {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                check,
                details,
                error,
                failures,
                duration = since.elapsed().as_secs_f64(),
                "Health check recovered"
            );
        }
        return;
    };
    if !state.starting {
        tracing::error!(subsystem_name = SUBSYSTEM, check, error, "Health check has failed");
    } else if before.is_none_or(|before| before.error != error) {
        tracing::warn!(
            subsystem_name = SUBSYSTEM,
            check,
            error,
            "Health check has failed. Starting up still."
        );
    }
    if before.is_none() {
        tracing::warn!(subsystem_name = SUBSYSTEM, check, details, error, "Health check failed");
    }
    let (since, failures) = before.map_or((Instant::now(), 0), |it| (it.since, it.failures));
    failing.insert(check, Failing { since, failures: failures + 1, error });
}

/// What clients of a listener for operators may cost. None of them needs more than a connection or
/// two, and whoever holds many must not keep out who asks whether the program lives.
pub(crate) fn limits() -> Limits {
    Limits { connections: 1024, connections_per_address: 32, ..Limits::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt as _;
    use steeple_runtime::{Tasks, drain};

    use super::*;

    fn checks() -> HealthChecks {
        HealthChecks {
            listener_enabled: true,
            bind_address: "localhost".into(),
            bind_port: "0".into(),
            live_path: "/live".into(),
            ready_path: "/r".into(),
        }
    }

    fn fixed(state: State) -> Check {
        Box::new(move || {
            let state = state.clone();
            Box::pin(async move { state })
        })
    }

    async fn text(response: Response) -> (u16, String, String) {
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_path_tells_its_own_state_and_others_do_not_exist() {
        let half = State {
            ready: false,
            ready_details: vec![("list_bundle_err", "no \"db\"".into())],
            ..State::good()
        };
        let all = [("server", fixed(State::good())), ("catalog.datastore", fixed(half))];
        let health = Health::new(all);
        assert_eq!(health.answer("/live", &checks()).status(), 500, "not looked yet");
        let (trigger, watcher) = drain::channel();
        // Nothing was looked at yet.
        assert_eq!(
            text(health.answer("/r", &checks())).await,
            (
                500,
                "application/json".into(),
                "{\"catalog.datastore\":null,\"server\":null}\n".into()
            )
        );
        let tasks = Tasks::new();
        tasks.spawn("health", Arc::clone(&health).watch(None, watcher));
        for _ in 0..2000 {
            if health.answer("/live", &checks()).status() == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(
            text(health.answer("/live", &checks())).await,
            (200, "application/json".into(), "{\"catalog.datastore\":{},\"server\":{}}\n".into())
        );
        assert_eq!(
            text(health.answer("/r", &checks())).await,
            (
                500,
                "application/json".into(),
                "{\"catalog.datastore\":{\"list_bundle_err\":\"no \\\"db\\\"\"},\"server\":{}}\n"
                    .into()
            )
        );
        assert_eq!(
            text(health.answer("/ready", &checks())).await,
            (404, "text/plain; charset=utf-8".into(), "404 page not found\n".into())
        );
        assert!(trigger.drain(Duration::from_secs(20)).await);
        tasks.join().await.unwrap();
    }

    #[tokio::test]
    async fn a_hint_makes_it_look_again_at_once() {
        let broken = Arc::new(AtomicBool::new(false));
        let (seen, told) = (Arc::clone(&broken), Arc::clone(&broken));
        let check: Check = Box::new(move || {
            let broken = seen.load(Ordering::Relaxed);
            Box::pin(async move {
                if broken { State::failed("list_bundle_err", "gone") } else { State::good() }
            })
        });
        let health = Health::new([("catalog.datastore", check)]);
        let fails = Box::new(move || told.load(Ordering::Relaxed));
        let hint = Hint { check: "catalog.datastore", fails };
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();
        tasks.spawn("health", Arc::clone(&health).watch(Some(hint), watcher));
        // Half of the steady interval: without the hint this would take all of it.
        let limit = Instant::now() + STEADY_INTERVAL / 2;
        for (now, status) in [(false, 200), (true, 500), (false, 200)] {
            broken.store(now, Ordering::Relaxed);
            while health.answer("/r", &checks()).status() != status {
                assert!(Instant::now() < limit, "not told of {status}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(trigger.drain(Duration::from_secs(20)).await);
        tasks.join().await.unwrap();
    }

    #[test]
    fn one_address_cannot_keep_others_out() {
        let limits = limits();
        assert!(limits.connections_per_address * 16 <= limits.connections);
    }

    #[test]
    fn states_are_shown_as_go_shows_them() {
        assert_eq!(State::good().shown(), "{<nil> true true {} {}}");
        assert_eq!(State::failed("x", "why").shown(), "{<nil> false false {why} {why}}");
    }
}
