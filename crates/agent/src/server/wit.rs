//! WIT-SVIDs from the server.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use steeple_agent_core::lifetime::Appointment;
use steeple_agent_core::wit::{SignedWit, WitRequest, WitSource};
use steeple_proto::spire::api::server::svid::v1 as svid_api;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use tracing::{debug, error};

use super::{SUBSYSTEM, ServerClient};
use crate::convert;
use crate::error::CallError;

/// Asks the server, and leaves it alone for as long as it wants when it is overloaded.
pub(crate) struct ServerWitSource {
    client: Arc<ServerClient>,
    appointment: Mutex<Appointment<String>>,
}

impl ServerWitSource {
    pub(crate) fn new(client: Arc<ServerClient>) -> Self {
        Self { client, appointment: Mutex::default() }
    }

    /// Waits until the server may be asked.
    ///
    /// # Errors
    /// When that is not before `until`: the server's last word.
    async fn wait(&self, until: Instant) -> Result<(), String> {
        let now = Instant::now();
        let left = match self.appointment().left(now) {
            None => return Ok(()),
            Some((left, error)) if now + left >= until => return Err(error.clone()),
            Some((left, _)) => left,
        };
        tokio::time::sleep(left).await;
        Ok(())
    }

    fn appointment(&self) -> MutexGuard<'_, Appointment<String>> {
        self.appointment.lock().expect("no code panics while it holds the appointment")
    }
}

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
        let until = Instant::now() + PATIENCE;
        loop {
            self.wait(until).await?;
            let answer = self.client.call(|channel| {
                let request = request.clone();
                async move { SvidClient::new(channel).batch_new_witsvid(request).await }
            });
            let error = match answer.await {
                Ok(answer) => {
                    return Ok(answer.into_inner().results.into_iter().map(signed).collect());
                }
                Err(status) => CallError::new("failed to batch new WIT SVID(s)", status),
            };
            let Some(asked) = error.asked_to_wait() else {
                error!(subsystem_name = SUBSYSTEM, error = %error.rpc(), "Failed to batch new WIT SVID(s)");
                return Err(error.to_string());
            };
            debug!(subsystem_name = SUBSYSTEM, error = %error.rpc(), "Failed to batch new WIT SVID(s); the server is busy");
            self.appointment().make(asked, Instant::now(), error.to_string());
        }
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

/// How long a workload waits for a server that is busy; after that it has an error, and its next
/// question, too, without the server being asked.
const PATIENCE: Duration = Duration::from_secs(5);
