//! Azure's API (Azure Resource Manager), asked on behalf of a [`Credential`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steeple_net::https::{Reply, Request};

use crate::credential::Credential;
use crate::web::{self, CloudError, Web, cut, limits};

const HOST: &str = "https://management.azure.com";
/// How many pages of a list are read.
const MAX_PAGES: usize = 64;
/// After how long a call is made again that Azure asked to make later.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// The API, as one credential sees it.
pub(crate) struct Arm {
    web: Arc<dyn Web>,
    credential: Credential,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default = "Vec::new")]
    value: Vec<T>,
    #[serde(rename = "nextLink")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<RefusalDetail>,
}

#[derive(Deserialize)]
struct RefusalDetail {
    code: Option<String>,
    message: Option<String>,
}

/// What a query to Azure's resource graph gave.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GraphAnswer {
    /// How many records there are.
    pub(crate) total_records: Option<i64>,
    /// The records, one way or another.
    #[serde(default)]
    pub(crate) data: Value,
}

impl Arm {
    pub(crate) fn new(web: Arc<dyn Web>, credential: Credential) -> Self {
        Self { web, credential }
    }

    /// Gets what is at `path`, which begins with a slash and has its query.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CloudError> {
        let reply = self.call(&Method::GET, &format!("{HOST}{path}"), Bytes::new()).await?;
        web::decode(&reply.body)
    }

    /// Hands the items of the list at `path` to `each`, page by page, until it has what it wants.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> Result<bool, CloudError> + Send,
    ) -> Result<(), CloudError> {
        let mut url = format!("{HOST}{path}");
        for _ in 0..MAX_PAGES {
            let reply = self.call(&Method::GET, &url, Bytes::new()).await?;
            let page: Page<T> = web::decode(&reply.body)?;
            for item in page.value {
                if each(item)? {
                    return Ok(());
                }
            }
            let Some(next) = page.next.filter(|next| !next.is_empty()) else { return Ok(()) };
            // Our token goes with every call.
            if !next.strip_prefix(HOST).is_some_and(|rest| rest.starts_with('/')) {
                return Err(CloudError::answer("the next page is not of Azure's API"));
            }
            url = next;
        }
        Err(CloudError::answer(format!("the list has more than {MAX_PAGES} pages")))
    }

    /// Asks the resource graph about one subscription.
    pub(crate) async fn query(
        &self,
        subscription: &str,
        query: &str,
    ) -> Result<GraphAnswer, CloudError> {
        let body = serde_json::json!({
            "options": { "resultFormat": "objectArray" },
            "query": query,
            "subscriptions": [subscription],
        });
        let url =
            format!("{HOST}/providers/Microsoft.ResourceGraph/resources?api-version=2024-04-01");
        let reply = self.call(&Method::POST, &url, Bytes::from(body.to_string())).await?;
        web::decode(&reply.body)
    }

    /// One call, made again where Azure asks for it.
    async fn call(&self, method: &Method, url: &str, body: Bytes) -> Result<Reply, CloudError> {
        let mut token = self.token().await?;
        let mut pauses = PAUSES.iter();
        let mut token_is_new = false;
        loop {
            let mut request = Request::get(url);
            request.method = method.clone();
            request.body = body.clone();
            request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            if !body.is_empty() {
                request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            request.headers.insert(AUTHORIZATION, token.clone());
            let reply = self.web.call(request, limits(15, 4 * 1024)).await?;
            match reply.status {
                StatusCode::OK => return Ok(reply),
                StatusCode::UNAUTHORIZED if !token_is_new => {
                    token = header(self.credential.another_token(&*self.web).await)?;
                    token_is_new = true;
                }
                status if asks_to_come_again(status) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(refusal(&reply)),
                },
                _ => return Err(refusal(&reply)),
            }
        }
    }

    async fn token(&self) -> Result<HeaderValue, CloudError> {
        header(self.credential.token(&*self.web).await)
    }
}

fn asks_to_come_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn header(
    token: Result<Arc<steeple_runtime::Secret<String>>, CloudError>,
) -> Result<HeaderValue, CloudError> {
    let token = token.map_err(|error| {
        CloudError::answer(format!("unable to get a token for Azure's API: {error}"))
    })?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| CloudError::answer("the token for Azure's API is malformed"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What Azure said, in a line.
fn refusal(reply: &Reply) -> CloudError {
    let detail = web::decode::<Refusal>(&reply.body).ok().and_then(|refusal| refusal.error);
    let (code, message) = detail.map_or((None, None), |it| (it.code, it.message));
    let status = reply.status;
    let code = code.unwrap_or_else(|| "UNAVAILABLE".to_owned());
    let message = message.unwrap_or_default();
    let message = message.lines().next().unwrap_or_default();
    let (code, message) = (cut(&code, 64), cut(message, 200));
    CloudError::answer(format!("RESPONSE {status}: ERROR CODE: {code}: {message}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use steeple_runtime::ManualClock;

    use super::*;
    use crate::credential::Source;
    use crate::web::recorded::Recorded;

    const IMDS: &str = "GET http://169.254.169.254/metadata/identity/oauth2/token\
                        ?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com";

    /// The API as the machine's identity sees it.
    pub(crate) fn arm(recorded: &Recorded) -> Arm {
        recorded.on(IMDS, 200, r#"{"access_token":"the-token","expires_in":"3600"}"#);
        let source = Source::ManagedIdentity { client: None };
        Arm::new(recorded.web(), Credential::new(source, Arc::new(ManualClock::default())))
    }

    #[tokio::test]
    async fn the_token_goes_with_every_call_and_to_the_api_only() {
        let recorded = Recorded::default();
        let arm = arm(&recorded);
        let next = "https://management.azure.com/b?c=d";
        recorded.on(
            "GET https://management.azure.com/a?x=y",
            200,
            json!({ "value": [1, 2], "nextLink": next }).to_string(),
        );
        recorded.on(&format!("GET {next}"), 200, r#"{"value":[3],"nextLink":""}"#);
        let seen = Mutex::new(Vec::new());
        let each = |item: i64| {
            seen.lock().unwrap().push(item);
            Ok(false)
        };
        arm.list("/a?x=y", each).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [1, 2, 3]);
        for asked in &recorded.asked()[1..] {
            assert_eq!(asked.headers["authorization"], "Bearer the-token");
        }
        for elsewhere in
            ["https://management.azure.com.evil.test/x", "http://management.azure.com/x", "/x"]
        {
            let body = json!({ "value": [1], "nextLink": elsewhere }).to_string();
            recorded.on("GET https://management.azure.com/a?x=y", 200, body);
            let refused = arm.list("/a?x=y", |_: i64| Ok(false)).await.unwrap_err().to_string();
            assert_eq!(refused, "the next page is not of Azure's API");
        }
        assert_eq!(recorded.count("evil"), 0);
    }

    #[tokio::test]
    async fn a_list_without_end_has_one() {
        let recorded = Recorded::default();
        let arm = arm(&recorded);
        let body = json!({ "value": [], "nextLink": "https://management.azure.com/a" }).to_string();
        recorded.on("GET https://management.azure.com/a", 200, body);
        let refused = arm.list("/a", |_: i64| Ok(false)).await.unwrap_err().to_string();
        assert_eq!(refused, "the list has more than 64 pages");
    }

    #[tokio::test(start_paused = true)]
    async fn what_azure_refuses_is_told_in_a_line_and_tried_again_only_where_it_helps() {
        let recorded = Recorded::default();
        let arm = arm(&recorded);
        let ask = async |status, body: Value| {
            recorded.on("GET https://management.azure.com/a", status, body.to_string());
            let before = recorded.count("azure.com/a");
            let refused = arm.get::<Value>("/a").await.unwrap_err().to_string();
            (refused, recorded.count("azure.com/a") - before)
        };
        let body = json!({ "error": { "code": "ResourceNotFound", "message": "none\nmore" } });
        let expected = "RESPONSE 404 Not Found: ERROR CODE: ResourceNotFound: none";
        assert_eq!(ask(404, body).await, (expected.to_owned(), 1));
        let (refused, times) = ask(503, json!("busy")).await;
        assert_eq!(refused, "RESPONSE 503 Service Unavailable: ERROR CODE: UNAVAILABLE: ");
        assert_eq!(times, 3);
        assert_eq!(ask(307, json!({})).await.1, 1);
        assert_eq!(ask(401, json!({})).await.1, 2);
    }

    #[tokio::test]
    async fn without_a_token_nothing_is_asked() {
        let recorded = Recorded::default();
        let arm = arm(&recorded);
        recorded.on(IMDS, 400, "no identity");
        let refused = arm.get::<Value>("/a").await.unwrap_err().to_string();
        let expected = "unable to get a token for Azure's API: unexpected status code 400: \
                        no identity";
        assert_eq!(refused, expected);
        assert_eq!(recorded.count("azure.com/a"), 0);
    }
}
