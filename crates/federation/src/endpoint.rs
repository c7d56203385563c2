//! The bundle endpoint: our own bundle for whoever asks (FE-01 to FE-05).

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use steeple_pki::Bundle;
use steeple_pki::bundle::{self, Indent};
use steeple_runtime::Watcher;
use steeple_web::{Limits, Listener, Request, Response, Tls, reply};

/// Whoever knows our own bundle.
#[async_trait]
pub trait OwnBundle: Send + Sync {
    /// The bundle, at most a second old.
    async fn own(&self) -> Result<Arc<Bundle>, Box<dyn Error + Send + Sync>>;
}

/// What the endpoint answers with.
pub struct Endpoint {
    source: Arc<dyn OwnBundle>,
    refresh_hint: Duration,
    /// The bundle that was printed last, and how it looks.
    printed: Mutex<Option<(Arc<Bundle>, Arc<str>)>>,
}

impl Endpoint {
    /// Answers with the bundle of `source`, and asks to come back after `refresh_hint`.
    #[must_use]
    pub fn new(source: Arc<dyn OwnBundle>, refresh_hint: Duration) -> Self {
        Self { source, refresh_hint, printed: Mutex::new(None) }
    }

    /// Serves until drained.
    pub async fn serve(self, listener: Listener, tls: Tls, drain: Watcher) {
        let endpoint = Arc::new(self);
        let handler = move |request: Request| {
            let endpoint = Arc::clone(&endpoint);
            async move { endpoint.answer(request.method(), request.uri().path()).await }
        };
        steeple_web::serve(listener, Some(tls), handler, Limits::default(), drain).await;
    }

    async fn answer(&self, method: &Method, path: &str) -> Response {
        match (method, path) {
            (&Method::GET, "/") => self.document().await,
            (&Method::GET, _) => reply::not_found(),
            // What Go answers before any handler.
            (&Method::OPTIONS, "*") => reply::status(StatusCode::OK),
            _ => reply::error(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed"),
        }
    }

    async fn document(&self) -> Response {
        match self.source.own().await {
            Ok(bundle) => {
                reply::content("application/json", self.print(bundle).as_bytes().to_vec())
            }
            Err(error) => {
                tracing::error!(
                    subsystem_name = "bundle_endpoint",
                    %error,
                    "Unable to retrieve local bundle"
                );
                let text = "500 unable to retrieve local bundle";
                reply::error(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }

    fn print(&self, bundle: Arc<Bundle>) -> Arc<str> {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, text)) = printed.as_ref()
            && (Arc::ptr_eq(of, &bundle) || **of == *bundle)
        {
            return Arc::clone(text);
        }
        let offered = Bundle { refresh_hint: self.refresh_hint, ..(*bundle).clone() };
        let text: Arc<str> = bundle::spiffe(&offered, Indent::FourSpaces).into();
        *printed = Some((bundle, Arc::clone(&text)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{authority, domain};

    /// Knows a bundle, or what is wrong.
    struct Known(Mutex<Result<Arc<Bundle>, &'static str>>);

    #[async_trait]
    impl OwnBundle for Known {
        async fn own(&self) -> Result<Arc<Bundle>, Box<dyn Error + Send + Sync>> {
            self.0.lock().unwrap().clone().map_err(Into::into)
        }
    }

    fn bundle() -> Bundle {
        let mut bundle = Bundle::from_certificates(domain("home"), vec![authority(10)]);
        bundle.sequence_number = 7;
        bundle.refresh_hint = Duration::from_secs(1);
        bundle
    }

    async fn asked(endpoint: &Endpoint, method: Method, path: &str) -> (u16, String) {
        use http_body_util::BodyExt;
        let response = endpoint.answer(&method, path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_bundle_is_had_by_get_at_the_root_only() {
        let known = Arc::new(Known(Mutex::new(Ok(Arc::new(bundle())))));
        let endpoint = Endpoint::new(known, Duration::from_secs(300));
        let (status, text) = asked(&endpoint, Method::GET, "/").await;
        assert_eq!(status, 200);
        assert!(
            text.starts_with("{\n    \"keys\": [\n        {\n            \"use\": \"x509-svid\"")
        );
        assert!(text.ends_with("\"spiffe_sequence\": 7,\n    \"spiffe_refresh_hint\": 300\n}"));
        let not_found = (404, "404 page not found\n".to_owned());
        assert_eq!(asked(&endpoint, Method::GET, "/bundle").await, not_found);
        assert_eq!(asked(&endpoint, Method::GET, "//").await, not_found);
        let not_allowed = (405, "405 method not allowed\n".to_owned());
        for method in [Method::POST, Method::HEAD, Method::PUT, Method::DELETE] {
            assert_eq!(asked(&endpoint, method, "/").await, not_allowed);
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_and_a_failure_is_no_document() {
        let known = Arc::new(Known(Mutex::new(Ok(Arc::new(bundle())))));
        let endpoint = Endpoint::new(Arc::clone(&known) as _, Duration::from_secs(300));
        let (_, first) = asked(&endpoint, Method::GET, "/").await;
        let changed = Bundle { sequence_number: 8, ..bundle() };
        *known.0.lock().unwrap() = Ok(Arc::new(changed));
        let (_, second) = asked(&endpoint, Method::GET, "/").await;
        assert!(
            first.contains("\"spiffe_sequence\": 7") && second.contains("\"spiffe_sequence\": 8")
        );
        *known.0.lock().unwrap() = Err("no database");
        let failed = (500, "500 unable to retrieve local bundle\n".to_owned());
        assert_eq!(asked(&endpoint, Method::GET, "/").await, failed);
    }
}
