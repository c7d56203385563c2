//! `healthcheck`.

use async_trait::async_trait;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::SOCKET;
use crate::client;
use crate::dispatch::{Failure, Verb};
use crate::{Env, FlagSet};

pub(super) struct HealthCheck;

#[async_trait]
impl Verb for HealthCheck {
    fn path(&self) -> &'static str {
        "healthcheck"
    }

    fn usage_name(&self) -> &'static str {
        "health"
    }

    fn synopsis(&self) -> &'static str {
        "Determines agent health status"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        flags.switch("shallow", "Perform a less stringent health check");
        flags.switch("verbose", "Print verbose information");
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("Agent is unhealthy: {}\n", failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let verbose = flags.is_set("verbose");
        if verbose {
            env.out("Checking agent health...\n");
        }
        let mut client = HealthClient::new(SOCKET.channel(flags, env)?);
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
            return Err(format!("agent returned status {:?}", status.as_str_name()).into());
        }
        env.out("Agent is healthy.\n");
        Ok(())
    }
}
