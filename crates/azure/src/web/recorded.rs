//! Answers that were written down, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use steeple_net::https::{FetchError, FetchLimits, Reply, Request};

use super::Web;

/// Answers by method and URL; what was not recorded cannot be reached.
#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: HashMap<String, (u16, Bytes)>,
    asked: Vec<Request>,
}

impl Recorded {
    /// Answers `what`, such as `GET https://host/path?query`, with `status` and `body`.
    pub(crate) fn on(&self, what: &str, status: u16, body: impl Into<Bytes>) -> &Self {
        self.0.lock().unwrap().answers.insert(what.to_owned(), (status, body.into()));
        self
    }

    /// From now on, `what` cannot be reached.
    pub(crate) fn forget(&self, what: &str) {
        self.0.lock().unwrap().answers.remove(what);
    }

    /// What was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.0.lock().unwrap().asked.clone()
    }

    /// How often something whose URL contains `part` was asked.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|request| request.url.contains(part)).count()
    }

    pub(crate) fn web(&self) -> Arc<dyn Web> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Web for Recorded {
    async fn call(&self, request: Request, limits: FetchLimits) -> Result<Reply, FetchError> {
        let mut state = self.0.lock().unwrap();
        let key = format!("{} {}", request.method, request.url);
        state.asked.push(request);
        let (status, body) =
            state.answers.get(&key).cloned().ok_or(FetchError::Timeout(limits.deadline))?;
        if body.len() > limits.size {
            return Err(FetchError::TooLarge(limits.size));
        }
        Ok(Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body })
    }
}
