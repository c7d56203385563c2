//! Credentials of tasks (ECS) and pods (EKS Pod Identity): an agent beside them gives them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use steeple_net::https::{self, FetchLimits, Request, Trust};
use url::{Host, Url};

use super::{Credentials, CredentialsError, Document, read};
use crate::environment::Environment;

const LIMITS: FetchLimits = FetchLimits { deadline: Duration::from_secs(5), size: 64 * 1024 };

/// Where the agent of ECS is.
const ECS: &str = "http://169.254.170.2";

/// Those that may be asked without TLS, besides the loopback.
const AGENTS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// Where credentials are to be had.
#[derive(Debug)]
pub(crate) struct Endpoint(Url);

/// What the environment says of such an agent, if anything; in words why it cannot be.
pub(super) fn endpoint(environment: &Environment) -> Option<Result<Endpoint, String>> {
    if let Some(path) = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        let url = Url::parse(&format!("{ECS}{path}")).map_err(|_| "invalid URL".to_owned());
        // A path that is none must not lead elsewhere.
        let own = |url: Url| match url.host_str() == Some("169.254.170.2") {
            true => Ok(Endpoint(url)),
            false => Err("invalid URL".to_owned()),
        };
        return Some(url.and_then(own));
    }
    let full = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    Some(checked(&full))
}

fn checked(full: &str) -> Result<Endpoint, String> {
    let url = Url::parse(full).map_err(|error| format!("invalid URL, {error}"))?;
    let allowed = match (url.scheme(), url.host()) {
        (_, None) => return Err("unable to parse host from local HTTP cred provider URL".into()),
        ("https", _) => true,
        ("http", Some(Host::Ipv4(ip))) => allowed(IpAddr::V4(ip)),
        ("http", Some(Host::Ipv6(ip))) => allowed(IpAddr::V6(ip)),
        // Other names would have to be looked up, and could then change.
        ("http", Some(Host::Domain(name))) => name.eq_ignore_ascii_case("localhost"),
        _ => false,
    };
    match allowed {
        true => Ok(Endpoint(url)),
        false => Err(format!(
            "invalid endpoint host, {:?}, only loopback/ecs/eks hosts are allowed",
            url.host_str().unwrap_or_default()
        )),
    }
}

fn allowed(ip: IpAddr) -> bool {
    ip.is_loopback() || AGENTS.contains(&ip)
}

impl Endpoint {
    pub(super) async fn fetch(
        &self,
        environment: &Environment,
    ) -> Result<Credentials, CredentialsError> {
        let failed = |why: String| CredentialsError::Container(why);
        let mut request = Request::get(self.0.clone());
        let token = match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => Some(read(path.as_ref())?),
            None => environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(token.trim_end_matches(['\r', '\n']))
                .map_err(|_| failed("the authorization token is malformed".to_owned()))?;
            value.set_sensitive(true);
            request.headers.insert(AUTHORIZATION, value);
        }
        let reply = Box::pin(https::call(request, &Trust::System, LIMITS))
            .await
            .map_err(|error| failed(error.to_string()))?;
        if !reply.status.is_success() {
            return Err(failed(format!(
                "http response error StatusCode: {}",
                reply.status.as_u16()
            )));
        }
        let document: Document = serde_json::from_slice(&reply.body)
            .map_err(|_| CredentialsError::Malformed("container credentials"))?;
        document.into_credentials()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_and_the_loopback_are_asked_without_tls() {
        for good in [
            "http://127.0.0.1:80/x",
            "http://[::1]/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://localhost:1338/x",
            "https://credentials.test/x",
        ] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in [
            "http://169.254.169.254/latest",
            "http://example.org/",
            "ftp://127.0.0.1/",
            "http://",
            "nonsense",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relative_path_stays_on_the_agent() {
        let at = |path| {
            let variable = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", path);
            endpoint(&Environment::of([variable])).unwrap()
        };
        assert_eq!(
            at("/v2/credentials/x").unwrap().0.as_str(),
            "http://169.254.170.2/v2/credentials/x"
        );
        for bad in ["@evil.test/", ".evil.test/"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
