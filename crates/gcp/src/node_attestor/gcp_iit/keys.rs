//! The keys that Google signs identity tokens with, as certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{CACHE_CONTROL, EXPIRES, HeaderMap};
use steeple_net::https::Request;
use steeple_pki::jwt::issuer::{IssuerKeys, MAX_DOCUMENT_LEN};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::once::Once;
use crate::web::{Web, cut};

/// Where they are published.
pub(super) const URL: &str = "https://www.googleapis.com/oauth2/v1/certs";
/// They are kept for so long at least and at most, whatever Google says.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys, fetched when the last are over.
pub(super) struct Keys {
    url: String,
    web: Web,
    keys: Once<IssuerKeys>,
}

impl Keys {
    pub(super) fn new(url: impl Into<String>, web: Web) -> Self {
        Self { url: url.into(), web, keys: Once::new() }
    }

    pub(super) async fn get(&self, now: SystemTime) -> Result<Arc<IssuerKeys>, String> {
        self.keys.get(now, self.fetch(now)).await
    }

    /// Newer keys than `old`, if they may be asked for: for a token whose key is not among those.
    pub(super) async fn newer(
        &self,
        old: &Arc<IssuerKeys>,
        now: SystemTime,
    ) -> Option<Arc<IssuerKeys>> {
        self.keys.newer(old, now, self.fetch(now)).await
    }

    async fn fetch(&self, now: SystemTime) -> Result<(IssuerKeys, SystemTime), String> {
        let reply = self.web.call(Request::get(self.url.as_str()), MAX_DOCUMENT_LEN).await;
        let reply = reply.map_err(|error| format!("Get {:?}: {error}", self.url))?;
        if reply.status != StatusCode::OK {
            return Err(format!("unexpected status code: {}", reply.status.as_u16()));
        }
        let keys = IssuerKeys::from_certificates(&reply.body).map_err(|error| {
            format!("unable to unmarshal certificate response: {}", cut(&error.to_string()))
        })?;
        let life = life(&reply.headers, now).clamp(SHORTEST, LONGEST);
        Ok((keys, now + life))
    }
}

/// How long an answer is good for, by its own word.
fn life(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let max_age = text(CACHE_CONTROL).and_then(|value| {
        let mut directives = value.split(',').map(str::trim);
        directives.find_map(|it| it.strip_prefix("max-age=")?.parse().ok())
    });
    if let Some(seconds) = max_age {
        return Duration::from_secs(seconds);
    }
    let expires = text(EXPIRES).and_then(|value| OffsetDateTime::parse(value, &Rfc2822).ok());
    let left = expires.map(|at| SystemTime::from(at).duration_since(now).unwrap_or_default());
    left.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_good_for_as_long_as_google_says() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_529_546_013);
        for (headers, expected) in [
            (&[][..], 0),
            (&[("expires", "Thu, 21 Jun 2018 01:54:33 GMT")], 60),
            (&[("expires", "Thu, 21 Jun 2012 01:54:33 GMT")], 0),
            (&[("expires", "soon"), ("cache-control", "public, must-revalidate")], 0),
            (&[("cache-control", "public, max-age=21600"), ("expires", "soon")], 21600),
            (&[("cache-control", "max-age=-1")], 0),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(life(&map, now), Duration::from_secs(expected), "{headers:?}");
        }
    }
}
