//! Whether the provider is ready, and live: by how old its keys are.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use steeple_web::{Response, reply};
use tokio::time::Instant;

use crate::config::HealthConfig;
use crate::mux;
use crate::source::Source;

/// Keys are old after so many intervals, but not before [`MIN_THRESHOLD`].
const INTERVALS: u32 = 5;
const MIN_THRESHOLD: Duration = Duration::from_secs(180);

/// The two probes.
pub(crate) struct Health {
    config: HealthConfig,
    source: Arc<Source>,
    threshold: Duration,
    started: Instant,
}

impl Health {
    /// Of a provider that started at `started` and asks for keys every `interval`.
    pub(crate) fn new(
        config: HealthConfig,
        source: Arc<Source>,
        interval: Duration,
        started: Instant,
    ) -> Self {
        let threshold = interval.saturating_mul(INTERVALS).max(MIN_THRESHOLD);
        Self { config, source, threshold, started }
    }

    pub(crate) fn answer<B>(&self, request: &Request<B>, now: Instant) -> Response {
        if let Some(response) = mux::intercept(request) {
            return response;
        }
        let fresh = |at: Instant| now.saturating_duration_since(at) < self.threshold;
        let last_poll = self.source.last_poll();
        let path = request.uri().path();
        let healthy = if path == self.config.ready_path {
            last_poll.is_some_and(fresh)
        } else if path == self.config.live_path {
            // Until the first answer it has as much time as between two.
            fresh(last_poll.unwrap_or(self.started))
        } else {
            return reply::not_found();
        };
        if *request.method() != Method::GET {
            return reply::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        }
        reply::status(if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const POLL: Duration = Duration::from_secs(60);

    fn health(source: &Arc<Source>, started: Instant) -> Health {
        let config = HealthConfig {
            port: 8008,
            ready_path: "/ready".to_owned(),
            live_path: "/live".to_owned(),
        };
        Health::new(config, Arc::clone(source), POLL, started)
    }

    fn status(health: &Health, path: &str, now: Instant) -> u16 {
        let request = Request::builder().uri(path).body(()).unwrap();
        health.answer(&request, now).status().as_u16()
    }

    #[test]
    fn it_is_ready_and_live_for_as_long_as_its_keys_are_fresh() {
        let start = Instant::now();
        let source = Arc::new(Source::default());
        let health = health(&source, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(status(&health, "/ready", at(1)), 500);
        assert_eq!(status(&health, "/live", at(1)), 200);
        assert_eq!(status(&health, "/live", at(299)), 200);
        assert_eq!(status(&health, "/live", at(300)), 500);
        source.update(Vec::new(), false, SystemTime::UNIX_EPOCH, at(10));
        for path in ["/ready", "/live"] {
            assert_eq!(status(&health, path, at(309)), 200);
            assert_eq!(status(&health, path, at(310)), 500);
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let start = Instant::now();
        let health = health(&Arc::new(Source::default()), start);
        assert_eq!(status(&health, "/", start), 404);
        let request = Request::builder().method("POST").uri("/live").body(()).unwrap();
        assert_eq!(health.answer(&request, start).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
