//! What Go's `http.ServeMux` does before a handler sees a request.

use http::header::{CONNECTION, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, StatusCode};
use steeple_web::{Response, reply};

use crate::go::clean_path;

/// The answer to a request whose target is no path in its shortest form.
pub(crate) fn intercept<B>(request: &Request<B>) -> Option<Response> {
    let path = request.uri().path();
    if path == "*" {
        if *request.method() == Method::OPTIONS {
            return Some(reply::status(StatusCode::OK));
        }
        let mut response = reply::status(StatusCode::BAD_REQUEST);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    if *request.method() == Method::CONNECT {
        return Some(reply::not_found());
    }
    let mut clean = clean_path(path);
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    let target = match request.uri().query() {
        Some(query) => format!("{clean}?{query}"),
        None => clean,
    };
    let location = HeaderValue::from_str(&target).ok()?;
    let mut response = reply::status(StatusCode::TEMPORARY_REDIRECT);
    if *request.method() == Method::GET {
        let shown = escape_html(&target);
        let body = format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n");
        response = reply::content("text/html; charset=utf-8", body);
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    } else if *request.method() == Method::HEAD {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
    }
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, target: &str) -> Option<(u16, String)> {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        let response = intercept(&request)?;
        let location = response.headers().get(LOCATION).map(|it| it.to_str().unwrap().to_owned());
        Some((response.status().as_u16(), location.unwrap_or_default()))
    }

    #[test]
    fn roundabout_paths_are_led_to_the_short_one() {
        assert_eq!(of(Method::GET, "/keys"), None);
        assert_eq!(of(Method::GET, "/keys/"), None);
        let keys = Some((307, "/keys".to_owned()));
        for path in ["//keys", "/a/../keys", "/./keys", "/../../keys"] {
            assert_eq!(of(Method::GET, path), keys, "{path}");
        }
        assert_eq!(of(Method::POST, "//a/?b=c"), Some((307, "/a/?b=c".to_owned())));
        assert_eq!(of(Method::GET, "//evil.test/.."), Some((307, "/".to_owned())));
        assert_eq!(of(Method::OPTIONS, "*"), Some((200, String::new())));
        assert_eq!(of(Method::GET, "*"), Some((400, String::new())));
    }
}
