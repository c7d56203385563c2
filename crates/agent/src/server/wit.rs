//! WIT-SVIDs from the server.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_agent_core::wit::{SignedWit, WitRequest, WitSource};
use steeple_proto::spire::api::server::svid::v1 as svid_api;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use tracing::error;

use super::{SUBSYSTEM, ServerClient};
use crate::convert;
use crate::error::CallError;

/// Asks the server.
pub(crate) struct ServerWitSource(pub(crate) Arc<ServerClient>);

#[async_trait]
impl WitSource for ServerWitSource {
    async fn sign(
        &self,
        requests: Vec<WitRequest>,
    ) -> Result<Vec<Result<SignedWit, String>>, String> {
        let params = requests.into_iter().map(|request| svid_api::NewWitsvidParams {
            entry_id: request.entry_id.to_string(),
            public_key: request.public_key.into(),
            signing_algorithm: request.algorithm.to_owned(),
        });
        let request = svid_api::BatchNewWitsvidRequest { params: params.collect() };
        let answer = self.0.call(|channel| {
            let request = request.clone();
            async move { SvidClient::new(channel).batch_new_witsvid(request).await }
        });
        let answer = answer.await.map_err(|status| {
            let error = CallError::new("failed to batch new WIT SVID(s)", status);
            error!(subsystem_name = SUBSYSTEM, error = %error.rpc(), "Failed to batch new WIT SVID(s)");
            error.to_string()
        })?;
        Ok(answer.into_inner().results.into_iter().map(signed).collect())
    }
}

/// The token itself is not verified: it came from the server, for somebody
/// else to verify.
fn signed(result: svid_api::batch_new_witsvid_response::Result) -> Result<SignedWit, String> {
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        return Err(status.message);
    }
    let svid = result.svid.ok_or("WITSVID response missing SVID")?;
    if svid.token.is_empty() || svid.issued_at == 0 || svid.expires_at <= svid.issued_at {
        return Err("WITSVID has no token, or no times that make sense".to_owned());
    }
    Ok(SignedWit {
        token: svid.token,
        issued_at: convert::seconds(svid.issued_at),
        expires_at: convert::seconds(svid.expires_at),
    })
}
