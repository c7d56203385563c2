//! The instance metadata service (IMDS), which every virtual machine of Azure can ask about itself.

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use steeple_net::https::Request;
use steeple_runtime::Secret;

use crate::web::{self, CloudError, Web, encode, limits};

const HOST: &str = "http://169.254.169.254";

/// What the service says of the machine.
#[derive(Deserialize, Default)]
struct Instance {
    compute: Option<Compute>,
}

/// What is used of it.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Compute {
    name: Option<String>,
    subscription_id: Option<String>,
    resource_group_name: Option<String>,
    vm_scale_set_name: Option<String>,
}

impl Compute {
    /// The subscription that the machine is in.
    pub(crate) fn subscription(&self) -> &str {
        self.subscription_id.as_deref().unwrap_or_default()
    }

    /// The scale set that the machine is in, if it is in one.
    pub(crate) fn scale_set(&self) -> Option<&str> {
        self.vm_scale_set_name.as_deref().filter(|name| !name.is_empty())
    }
}

/// A statement about the machine that Azure signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedDocument {
    /// How the signature is encoded; SPIRE's agents say what Azure said.
    #[serde(default, deserialize_with = "nullable")]
    pub encoding: String,
    /// A PKCS#7 message with the statement in it, in base64.
    #[serde(default, deserialize_with = "nullable")]
    pub signature: String,
}

/// Go reads `null` as the empty string.
pub(crate) fn nullable<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Token {
    #[serde(default, deserialize_with = "nullable")]
    access_token: String,
    /// Seconds, in a string.
    expires_in: Option<serde_json::Value>,
}

fn get(path_and_query: &str) -> Request {
    let mut request = Request::get(format!("{HOST}{path_and_query}"));
    request.headers.insert("metadata", HeaderValue::from_static("true"));
    request
}

/// A token of the machine's managed identity for `resource`, and for how many seconds it is good,
/// if that is said. With `client`, it is the identity with that client ID.
pub(crate) async fn token(
    web: &dyn Web,
    resource: &str,
    client: Option<&str>,
) -> Result<(Secret<String>, Option<u64>), CloudError> {
    let mut query = format!(
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}",
        encode(resource)
    );
    if let Some(client) = client {
        query += &format!("&client_id={}", encode(client));
    }
    let answer: Token = web::json(web.call(get(&query), limits(10, 64)).await?)?;
    if answer.access_token.is_empty() {
        return Err(CloudError::answer("response missing access token"));
    }
    let seconds = answer.expires_in.as_ref().and_then(seconds);
    Ok((Secret::new(answer.access_token), seconds))
}

/// A number of seconds, bare or in a string.
pub(crate) fn seconds(value: &serde_json::Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What the machine is.
pub(crate) async fn compute(web: &dyn Web) -> Result<Compute, CloudError> {
    let request = get("/metadata/instance?api-version=2025-04-07&format=json");
    // The user data that may be in it has 64 KiB by itself.
    let answer: Instance = web::json(web.call(request, limits(10, 512)).await?)?;
    let compute = answer.compute.unwrap_or_default();
    let missing = |value: &Option<String>| value.as_deref().is_none_or(str::is_empty);
    for (value, text) in [
        (&compute.name, "response missing instance name"),
        (&compute.subscription_id, "response missing instance subscription id"),
        (&compute.resource_group_name, "response missing instance resource group name"),
    ] {
        if missing(value) {
            return Err(CloudError::answer(text));
        }
    }
    Ok(compute)
}

/// The signed statement about the machine, with `nonce` in it.
pub(crate) async fn attested_document(
    web: &dyn Web,
    nonce: &str,
) -> Result<AttestedDocument, CloudError> {
    let query =
        format!("/metadata/attested/document?api-version=2025-04-07&nonce={}", encode(nonce));
    let document: AttestedDocument = web::json(web.call(get(&query), limits(10, 64)).await?)?;
    if document.encoding.is_empty() {
        return Err(CloudError::answer("response missing encoding"));
    }
    if document.signature.is_empty() {
        return Err(CloudError::answer("response missing signature"));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::recorded::Recorded;

    const TOKEN: &str = "GET http://169.254.169.254/metadata/identity/oauth2/token\
                         ?api-version=2018-02-01&resource=RESOURCE";
    const INSTANCE: &str =
        "GET http://169.254.169.254/metadata/instance?api-version=2025-04-07&format=json";
    const DOCUMENT: &str = "GET http://169.254.169.254/metadata/attested/document\
                            ?api-version=2025-04-07&nonce=N";

    #[tokio::test]
    async fn tokens_are_asked_for_as_azure_documents_it() {
        let recorded = Recorded::default();
        let ask = async |status, body: &'static str| {
            recorded.on(TOKEN, status, body);
            let answer = token(&recorded, "RESOURCE", None).await;
            answer.map(|(token, life)| (token.into_inner(), life)).map_err(|err| err.to_string())
        };
        assert_eq!(ask(400, "ERROR").await.unwrap_err(), "unexpected status code 400: ERROR");
        assert_eq!(ask(302, "").await.unwrap_err(), "unexpected status code 302: ");
        assert_eq!(ask(200, "").await.unwrap_err(), "unable to decode response: EOF");
        assert_eq!(ask(200, "{").await.unwrap_err(), "unable to decode response: unexpected EOF");
        assert_eq!(ask(200, "{}").await.unwrap_err(), "response missing access token");
        let good = r#"{"access_token":"ASDF","expires_in":"3599"}"#;
        assert_eq!(ask(200, good).await.unwrap(), ("ASDF".to_owned(), Some(3599)));
        assert!(recorded.asked().iter().all(|request| request.headers["metadata"] == "true"));
    }

    #[tokio::test]
    async fn what_is_missing_of_the_machine_is_said() {
        let recorded = Recorded::default();
        let ask = async |body: String| {
            recorded.on(INSTANCE, 200, body);
            compute(&recorded).await.map_err(|err| err.to_string())
        };
        let of = |members: &str| format!("{{\"compute\":{{{members}}}}}");
        let refused = |text: &str| format!("response missing instance {text}");
        let body = of(r#""subscriptionId":"S","resourceGroupName":"G""#);
        assert_eq!(ask(body).await.unwrap_err(), refused("name"));
        let body = of(r#""name":"N","resourceGroupName":"G""#);
        assert_eq!(ask(body).await.unwrap_err(), refused("subscription id"));
        let body = of(r#""name":"N","subscriptionId":"S""#);
        assert_eq!(ask(body).await.unwrap_err(), refused("resource group name"));
        let body = of(r#""name":"N","subscriptionId":"S","resourceGroupName":"G""#);
        let compute = ask(body.clone()).await.unwrap();
        assert_eq!((compute.subscription(), compute.scale_set()), ("S", None));
        let body = body.replace("\"N\"", "\"N\",\"vmScaleSetName\":\"set\"");
        assert_eq!(ask(body).await.unwrap().scale_set(), Some("set"));
    }

    #[tokio::test]
    async fn a_document_has_encoding_and_signature() {
        let recorded = Recorded::default();
        let ask = async |body: &'static str| {
            recorded.on(DOCUMENT, 200, body);
            attested_document(&recorded, "N").await.map_err(|err| err.to_string())
        };
        assert_eq!(ask("{}").await.unwrap_err(), "response missing encoding");
        let refused = ask(r#"{"encoding":"pkcs7","signature":null}"#).await.unwrap_err();
        assert_eq!(refused, "response missing signature");
        let document = ask(r#"{"encoding":"pkcs7","signature":"c2ln"}"#).await.unwrap();
        assert_eq!((&*document.encoding, &*document.signature), ("pkcs7", "c2ln"));
        let huge = format!(r#"{{"encoding":"pkcs7","signature":"{}"}}"#, "A".repeat(70_000));
        recorded.on(DOCUMENT, 200, huge);
        let refused = attested_document(&recorded, "N").await.unwrap_err().to_string();
        assert_eq!(refused, "the answer is larger than 65536 bytes");
    }
}
