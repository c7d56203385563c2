//! JWT-SVIDs from the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use steeple_agent_core::entry::Entry;
use steeple_agent_core::jwt::{JwtSource, JwtSvid};
use steeple_agent_core::lifetime::heed;
use steeple_proto::spire::api::server::svid::v1 as svid_api;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_proto::spire::api::types;
use steeple_runtime::Backoff;
use tonic::{Code, Status};
use tracing::{debug, error};

use super::{RPC_TIMEOUT, SUBSYSTEM, ServerClient};
use crate::convert;
use crate::error::{CallError, asked_to_wait, code_name};

/// Asks the server, again and again while it is away, within one deadline.
pub(crate) struct ServerJwtSource {
    client: Arc<ServerClient>,
    cache_hit_timeout: Duration,
}

impl ServerJwtSource {
    /// `cache_hit_timeout` is the deadline when a usable token is at hand.
    pub(crate) fn new(client: Arc<ServerClient>, cache_hit_timeout: Duration) -> Self {
        Self { client, cache_hit_timeout }
    }

    /// Leaves in `last` why the last attempt failed, for whoever loses patience.
    async fn attempts(
        &self,
        request: &svid_api::NewJwtsvidRequest,
        last: &mut Option<Status>,
        until: Instant,
    ) -> Result<types::Jwtsvid, Status> {
        let mut pauses = Backoff::with_default_max(FIRST_PAUSE);
        loop {
            let answer = self
                .client
                .call(|channel| {
                    let request = request.clone();
                    async move { SvidClient::new(channel).new_jwtsvid(request).await }
                })
                .await;
            match answer {
                Ok(answer) => {
                    let svid = answer.into_inner().svid;
                    return svid.ok_or_else(|| Status::unknown("JWTSVID response missing SVID"));
                }
                Err(status) if !is_retriable(&status) => return Err(status),
                Err(status) => {
                    let asked = asked_to_wait(&status);
                    let pause = heed(pauses.next(), asked, None);
                    if asked.is_some() && Instant::now() + pause >= until {
                        return Err(status);
                    }
                    let error = CallError::new(WHAT, status);
                    debug!(subsystem_name = SUBSYSTEM, error = %error.rpc(), status_code = code_name(error.status()),
                        status_message = error.status().message(), "Failed to fetch JWT SVID; retrying");
                    *last = Some(error.into_status());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

#[async_trait]
impl JwtSource for ServerJwtSource {
    async fn sign(
        &self,
        entry: &Entry,
        audience: &[String],
        have_cached: bool,
    ) -> Result<JwtSvid, String> {
        let timeout = if have_cached { self.cache_hit_timeout } else { RPC_TIMEOUT };
        let request = svid_api::NewJwtsvidRequest {
            entry_id: entry.id.to_string(),
            audience: audience.to_vec(),
        };
        let mut last = None;
        let attempts = self.attempts(&request, &mut last, Instant::now() + timeout);
        let outcome = tokio::time::timeout(timeout, attempts).await;
        let status = match outcome {
            Ok(Ok(svid)) => return parse(svid),
            Ok(Err(status)) => status,
            Err(_) => {
                last.unwrap_or_else(|| Status::deadline_exceeded("context deadline exceeded"))
            }
        };
        let error = CallError::new(WHAT, status);
        error!(subsystem_name = SUBSYSTEM, error = %error.rpc(), status_code = code_name(error.status()),
            status_message = error.status().message(), "Failed to fetch JWT SVID");
        Err(error.to_string())
    }
}

/// The token itself is not verified: it came from the server, for somebody
/// else to verify.
fn parse(svid: types::Jwtsvid) -> Result<JwtSvid, String> {
    let broken = match (svid.issued_at, svid.expires_at) {
        (0, _) => Some("JWTSVID missing issued at"),
        (_, 0) => Some("JWTSVID missing expires at"),
        (issued, expires) if issued > expires => Some("JWTSVID issued after it has expired"),
        _ => None,
    };
    if let Some(reason) = broken {
        return Err(reason.into());
    }
    convert::spiffe_id(svid.id.as_ref())
        .map_err(|error| format!("could not parse JWT-SVID SPIFFE ID: {error}"))?;
    let key_id = steeple_pki::jwt::parse_unverified(&svid.token)
        .ok()
        .and_then(|token| token.key_id().map(Arc::from))
        .ok_or("could not get key ID from minted JWT-SVID")?;
    Ok(JwtSvid {
        token: svid.token.into(),
        key_id,
        issued_at: convert::seconds(svid.issued_at),
        expires_at: convert::seconds(svid.expires_at),
    })
}

fn is_retriable(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::InvalidArgument
            | Code::Unimplemented
    )
}

const WHAT: &str = "failed to fetch JWT SVID";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
