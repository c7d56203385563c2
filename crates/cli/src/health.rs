//! `healthcheck` of both programs: one call of `grpc.health.v1`.

use async_trait::async_trait;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{self, Socket};
use crate::dispatch::{Failure, Verb};
use crate::{Env, FlagSet};

/// The verb, with the words that differ between the programs.
pub(crate) struct HealthCheck {
    pub(crate) socket: &'static Socket,
    /// `server` or `agent`.
    pub(crate) who: &'static str,
    /// With a capital.
    pub(crate) title: &'static str,
    pub(crate) usage_name: &'static str,
    pub(crate) synopsis: &'static str,
    /// What stands before a failure.
    pub(crate) unhealthy: &'static str,
}

#[async_trait]
impl Verb for HealthCheck {
    fn path(&self) -> &'static str {
        "healthcheck"
    }

    fn usage_name(&self) -> &'static str {
        self.usage_name
    }

    fn synopsis(&self) -> &'static str {
        self.synopsis
    }

    fn flags(&self, flags: &mut FlagSet) {
        self.socket.declare(flags);
        flags.switch("shallow", "Perform a less stringent health check");
        flags.switch("verbose", "Print verbose information");
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("{}{}\n", self.unhealthy, failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let verbose = flags.is_set("verbose");
        if verbose {
            env.out(&format!("Checking {} health...\n", self.who));
        }
        let mut client = HealthClient::new(self.socket.channel(flags, env)?);
        let request = HealthCheckRequest { service: String::new() };
        let status = match client.check(request).await {
            Ok(response) => response.into_inner().status(),
            Err(status) => {
                if verbose {
                    env.err(&format!("Failed to check health: {}\n", client::rpc(&status)));
                }
                return Err("unable to determine health".into());
            }
        };
        if status != ServingStatus::Serving {
            let status = status.as_str_name();
            return Err(format!("{} returned status {status:?}", self.who).into());
        }
        env.out(&format!("{} is healthy.\n", self.title));
        Ok(())
    }
}
