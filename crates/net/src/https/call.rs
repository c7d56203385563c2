//! One HTTP call of any kind: for the APIs of clouds and their metadata services.

use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use http_body_util::Full;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{
    FetchError, FetchLimits, Trust, client_config, dial, exchange, refused, whole, within,
};

/// What is asked. Its headers and body, and the query of its URL, may be secret: `Debug` has none
/// of them.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// An `http` or `https` URL without user and password.
    pub url: String,
    /// The headers. `Host` and those about the connection and the length are not for the caller
    /// to say.
    pub headers: HeaderMap,
    /// The body; a request without one has an empty one.
    pub body: Bytes,
}

impl Request {
    /// A GET of `url`.
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: Method::GET, url: url.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.url.split(['?', '#']).next().unwrap_or_default();
        let mut debug = f.debug_struct("Request");
        debug.field("method", &self.method).field("url", &place).finish_non_exhaustive()
    }
}

/// What was answered, whatever the status.
#[derive(Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Reply");
        debug
            .field("status", &self.status)
            .field("length", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What the head of an answer may have, in bytes; hyper may read as much again before it looks.
const MAX_HEAD: usize = 64 * 1024;

/// Makes one call over a connection of its own. Any status is an answer, a redirect too; no proxy
/// is asked, whatever the environment says. The server of an `https` URL must be one that `trust`
/// accepts.
///
/// # Errors
/// [`FetchError`] says how far it came; nothing in it is from the request.
pub async fn call(
    request: Request,
    trust: &Trust,
    limits: FetchLimits,
) -> Result<Reply, FetchError> {
    let url = parse(&request.url)?;
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let tls = match url.scheme() {
        "https" => {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| FetchError::Url("invalid host"))?;
            Some((TlsConnector::from(std::sync::Arc::new(client_config(trust)?)), name))
        }
        _ => None,
    };
    let request = prepare(&url, request)?;
    within(limits, async {
        let stream = dial::connect(&host, port, limits.deadline).await?;
        match tls {
            None => converse(request, stream, limits.size).await,
            Some((connector, name)) => {
                let stream = connector.connect(name, stream).await.map_err(refused)?;
                converse(request, stream, limits.size).await
            }
        }
    })
    .await
}

fn parse(url: &str) -> Result<Url, FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::Url("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        Err(FetchError::Url("it must begin with http:// or https://"))
    } else if url.host_str().is_none_or(str::is_empty) {
        Err(FetchError::Url("it has no host"))
    } else if !url.username().is_empty() || url.password().is_some() {
        Err(FetchError::Url("it has a user or password"))
    } else {
        Ok(url)
    }
}

fn prepare(url: &Url, request: Request) -> Result<http::Request<Full<Bytes>>, FetchError> {
    let Request { method, url: _, mut headers, body } = request;
    let host = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort]);
    headers.insert(HOST, host.map_err(|_| FetchError::Url("invalid host"))?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    let agent = HeaderValue::from_static(concat!("steeple/", env!("CARGO_PKG_VERSION")));
    headers.entry(USER_AGENT).or_insert(agent);
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut made = http::Request::builder()
        .method(method)
        .uri(target)
        .body(Full::new(body))
        .map_err(|_| FetchError::Url("invalid path"))?;
    *made.headers_mut() = headers;
    Ok(made)
}

async fn converse<S>(
    request: http::Request<Full<Bytes>>,
    stream: S,
    size: usize,
) -> Result<Reply, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    exchange(request, stream, MAX_HEAD, async |response| {
        let (head, body) = response.into_parts();
        let body = whole(body, size).await?;
        Ok(Reply { status: head.status, headers: head.headers, body })
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(30), size: 1000 };

    /// A server that reads until `end` and answers once; gives what it read.
    async fn served(
        limits: FetchLimits,
        end: &str,
        answer: impl Into<Vec<u8>>,
        change: impl FnOnce(&mut Request),
    ) -> (Result<Reply, FetchError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a/b?c=d#e", listener.local_addr().unwrap());
        let mut request = Request::get(url);
        change(&mut request);
        let answer = answer.into();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !String::from_utf8_lossy(&read).contains(end) {
                let mut some = [0; 1024];
                let length = stream.read(&mut some).await.unwrap();
                assert_ne!(length, 0, "the client left early");
                read.extend_from_slice(&some[..length]);
            }
            let _ = stream.write_all(&answer).await;
            let _ = stream.read(&mut [0; 1]).await;
            String::from_utf8(read).unwrap()
        };
        tokio::join!(call(request, &Trust::System, limits), server)
    }

    #[tokio::test]
    async fn method_headers_and_body_arrive_and_any_answer_comes_back_whole() {
        let refusal = "HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: 4\r\n\r\nnope";
        let (reply, asked) = served(LIMITS, "the body", refusal, |request| {
            request.method = Method::PUT;
            request.headers.insert("x-aws-ec2-metadata-token-ttl-seconds", 300.into());
            request.headers.insert(HOST, HeaderValue::from_static("elsewhere"));
            request.headers.insert(CONTENT_LENGTH, 1.into());
            request.body = Bytes::from_static(b"the body");
        })
        .await;
        let reply = reply.unwrap();
        assert_eq!((reply.status, &*reply.body), (StatusCode::FORBIDDEN, &b"nope"[..]));
        assert_eq!(reply.headers["x-why"], "because");
        assert!(asked.starts_with("PUT /a/b?c=d HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-aws-ec2-metadata-token-ttl-seconds: 300\r\n"), "{asked}");
        assert!(asked.contains("content-length: 8\r\n"), "{asked}");
        assert!(asked.contains("host: 127.0.0.1:") && !asked.contains("elsewhere"), "{asked}");
    }

    #[tokio::test]
    async fn redirects_are_answers() {
        let redirect = "HTTP/1.1 307 Moved\r\nLocation: http://else/\r\nContent-Length: 0\r\n\r\n";
        let (reply, _) = served(LIMITS, "\r\n\r\n", redirect, |_| ()).await;
        assert_eq!(reply.unwrap().status, StatusCode::TEMPORARY_REDIRECT);
    }

    #[tokio::test]
    async fn size_of_head_and_body_and_time_are_limited() {
        for status in ["200 OK", "500 Oops"] {
            let endless = format!("HTTP/1.1 {status}\r\n\r\n{}", "x".repeat(100_000));
            let (reply, _) = served(LIMITS, "\r\n\r\n", endless, |_| ()).await;
            assert!(matches!(reply, Err(FetchError::TooLarge(1000))), "{reply:?}");
        }
        let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(4 * MAX_HEAD));
        let (reply, _) = served(LIMITS, "\r\n\r\n", head, |_| ()).await;
        assert!(matches!(reply, Err(FetchError::Http(_))), "{reply:?}");
        let limits = FetchLimits { deadline: Duration::from_millis(300), ..LIMITS };
        let stalled = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhell";
        let (reply, _) = served(limits, "\r\n\r\n", stalled, |_| ()).await;
        assert!(matches!(reply, Err(FetchError::Timeout(_))), "{reply:?}");
    }

    #[tokio::test]
    async fn urls_that_cannot_be_asked_are_refused_before_anything_is_dialled() {
        for url in ["ftp://h/", "h", "http://", "http://u:p@localhost/", "http://u@localhost/", ""]
        {
            let error = call(Request::get(url), &Trust::System, LIMITS).await.unwrap_err();
            assert!(matches!(error, FetchError::Url(_)), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut request = Request::get("https://h/path?token=s3cret");
        request.headers.insert("authorization", HeaderValue::from_static("s3cret"));
        request.body = Bytes::from_static(b"s3cret");
        let text = format!("{request:?}");
        assert!(text.contains("https://h/path") && !text.contains("s3cret"), "{text}");
        let reply = Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"s3cret"),
        };
        assert!(!format!("{reply:?}").contains("s3cret"));
    }
}
