//! A document as Go's `http.ServeContent` serves it: with its date, conditions on that, and
//! ranges (RFC 9110 sections 13 and 14).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderName, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::Full;
use steeple_web::{Response, http_date, parse_http_date, reply};

/// Answers a GET with the headers `asked` for `body`, of which `headers` tell and which changed
/// last at `modified`.
pub(crate) fn serve(
    asked: &HeaderMap,
    headers: HeaderMap,
    body: &Bytes,
    modified: SystemTime,
) -> Response {
    let mut response = Response::new(Full::default());
    *response.headers_mut() = headers;
    let date = http_date(modified);
    if let Ok(date) = HeaderValue::from_str(&date) {
        response.headers_mut().insert(LAST_MODIFIED, date);
    }
    let asked = Asked { headers: asked, modified };
    if let Some(status) = asked.precondition() {
        if status == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(CONTENT_TYPE);
        }
        *response.status_mut() = status;
        return response;
    }
    let (status, part) = match asked.range(body.len()) {
        Ok(None) => (StatusCode::OK, body.clone()),
        Ok(Some((first, last))) => {
            set(&mut response, CONTENT_RANGE, &format!("bytes {first}-{last}/{}", body.len()));
            (StatusCode::PARTIAL_CONTENT, body.slice(first..=last))
        }
        Err(reason) => {
            let mut refused = reply::error(StatusCode::RANGE_NOT_SATISFIABLE, reason);
            for (name, value) in response.headers() {
                if ![CACHE_CONTROL, CONTENT_TYPE, LAST_MODIFIED].contains(name) {
                    refused.headers_mut().insert(name.clone(), value.clone());
                }
            }
            if reason == NO_OVERLAP {
                set(&mut refused, CONTENT_RANGE, &format!("bytes */{}", body.len()));
            }
            return refused;
        }
    };
    set(&mut response, ACCEPT_RANGES, "bytes");
    *response.status_mut() = status;
    *response.body_mut() = Full::new(part);
    response
}

const NO_OVERLAP: &str = "invalid range: failed to overlap";
const INVALID: &str = "invalid range";

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

struct Asked<'a> {
    headers: &'a HeaderMap,
    modified: SystemTime,
}

impl Asked<'_> {
    fn text(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().filter(|it| !it.is_empty())
    }

    fn date(&self, name: HeaderName) -> Option<SystemTime> {
        parse_http_date(self.text(name)?)
    }

    /// The status that answers instead of the document. It has no entity tag, so none matches.
    fn precondition(&self) -> Option<StatusCode> {
        let any = |list: &str| list.trim_start_matches([' ', '\t', ',']).starts_with('*');
        let modified = whole_seconds(self.modified);
        let met = match self.text(IF_MATCH) {
            Some(list) => any(list),
            None => self.date(IF_UNMODIFIED_SINCE).is_none_or(|it| modified <= it),
        };
        if !met {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        let unchanged = match self.text(IF_NONE_MATCH) {
            Some(list) => any(list),
            None => self.date(IF_MODIFIED_SINCE).is_some_and(|it| modified <= it),
        };
        unchanged.then_some(StatusCode::NOT_MODIFIED)
    }

    /// The first and last byte of the one range that is wanted; all of it when several are, which
    /// a server may do.
    fn range(&self, len: usize) -> Result<Option<(usize, usize)>, &'static str> {
        let Some(range) = self.text(RANGE) else { return Ok(None) };
        if let Some(date) = self.text(IF_RANGE)
            && parse_http_date(date) != Some(whole_seconds(self.modified))
        {
            return Ok(None);
        }
        let mut found = Vec::new();
        let mut no_overlap = false;
        for part in range.strip_prefix("bytes=").ok_or(INVALID)?.split(',').take(64) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (first, last) = part.split_once('-').ok_or(INVALID)?;
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| INVALID);
            if first.trim().is_empty() {
                let count = number(last)?.min(len);
                found.push((len - count, len));
                continue;
            }
            let first = number(first)?;
            let end = match last.trim() {
                "" => len,
                last => number(last)?.saturating_add(1).min(len),
            };
            match () {
                () if first >= len => no_overlap = true,
                () if first >= end => return Err(INVALID),
                () => found.push((first, end)),
            }
        }
        match found.as_slice() {
            [] if no_overlap => Err(NO_OVERLAP),
            [(first, end)] if first < end => Ok(Some((*first, end - 1))),
            _ => Ok(None),
        }
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const DATE: &str = "Sun, 22 Nov 2026 09:00:00 GMT";
    const LATER: &str = "Sun, 22 Nov 2026 09:00:01 GMT";
    const EARLIER: &str = "Sun, 22 Nov 2026 08:59:59 GMT";

    fn ask(headers: &[(HeaderName, &str)]) -> Response {
        let mut asked = HeaderMap::new();
        for (name, value) in headers {
            asked.insert(name.clone(), value.parse().unwrap());
        }
        let mut own = HeaderMap::new();
        own.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let modified = parse_http_date(DATE).unwrap() + Duration::from_millis(400);
        serve(&asked, own, &Bytes::from_static(b"0123456789"), modified)
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec())
            .unwrap()
    }

    #[tokio::test]
    async fn a_plain_request_gets_all_of_it_with_its_date() {
        let response = ask(&[]);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[LAST_MODIFIED], DATE);
        assert_eq!(response.headers()[ACCEPT_RANGES], "bytes");
        assert_eq!(text(response).await, "0123456789");
    }

    #[test]
    fn conditions_on_the_date_hold() {
        let status = |name: HeaderName, value: &str| ask(&[(name, value)]).status().as_u16();
        assert_eq!(status(IF_MODIFIED_SINCE, DATE), 304);
        assert_eq!(status(IF_MODIFIED_SINCE, LATER), 304);
        assert_eq!(status(IF_MODIFIED_SINCE, EARLIER), 200);
        assert_eq!(status(IF_MODIFIED_SINCE, "yesterday"), 200);
        assert_eq!(status(IF_UNMODIFIED_SINCE, EARLIER), 412);
        assert_eq!(status(IF_UNMODIFIED_SINCE, DATE), 200);
        assert_eq!(status(IF_MATCH, "\"tag\""), 412);
        assert_eq!(status(IF_MATCH, "*"), 200);
        assert_eq!(status(IF_NONE_MATCH, "*"), 304);
        assert_eq!(status(IF_NONE_MATCH, "\"tag\""), 200);
        let not_modified = ask(&[(IF_MODIFIED_SINCE, DATE)]);
        assert!(!not_modified.headers().contains_key(CONTENT_TYPE));
    }

    #[tokio::test]
    async fn one_range_is_served_and_nonsense_is_not() {
        let partial = ask(&[(RANGE, "bytes=2-4")]);
        assert_eq!(partial.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(partial.headers()[CONTENT_RANGE], "bytes 2-4/10");
        assert_eq!(text(partial).await, "234");
        assert_eq!(text(ask(&[(RANGE, "bytes=-3")])).await, "789");
        assert_eq!(text(ask(&[(RANGE, "bytes=8-99")])).await, "89");
        for (range, status) in [
            ("bytes=10-", 416),
            ("bytes=4-2", 416),
            ("lines=1-2", 416),
            ("bytes=x-", 416),
            ("bytes=0-0,2-3", 200),
            ("bytes=99999999999999999999-", 416),
        ] {
            assert_eq!(ask(&[(RANGE, range)]).status().as_u16(), status, "{range}");
        }
        let old = ask(&[(RANGE, "bytes=2-4"), (IF_RANGE, EARLIER)]);
        assert_eq!(old.status(), StatusCode::OK);
    }
}
