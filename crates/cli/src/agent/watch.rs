//! `api watch`: prints each X.509 context as it arrives, until interrupted.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use steeple_proto::workload::X509svidRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{SOCKET, identity};
use crate::client::rpc;
use crate::dispatch::{Failure, Verb};
use crate::{Env, FlagSet};

pub(super) struct Watch;

#[async_trait]
impl Verb for Watch {
    fn path(&self) -> &'static str {
        "api watch"
    }

    fn usage_name(&self) -> &'static str {
        "watch"
    }

    fn synopsis(&self) -> &'static str {
        "Attaches to the Workload API and prints updates as they're received"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("{}\n", failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = SpiffeWorkloadApiClient::new(SOCKET.channel(flags, env)?);
        tokio::select! {
            result = watch(&mut client, env) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// Reads the stream, and opens it again when it breaks: 1 s, then longer.
async fn watch(
    client: &mut SpiffeWorkloadApiClient<Channel>,
    env: &mut Env,
) -> Result<(), Failure> {
    const LONGEST: Duration = Duration::from_secs(30);
    let mut last = Instant::now();
    let mut pause = Duration::from_secs(1);
    loop {
        let status = match client.fetch_x509svid(identity::request(X509svidRequest {})).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(update)) => {
                            pause = Duration::from_secs(1);
                            match identity::parse(&update) {
                                Ok(identities) => {
                                    env.out(&identity::text(&identities, last.elapsed()));
                                }
                                Err(failure) => env.err(&format!("{}\n", failure.0)),
                            }
                            last = Instant::now();
                        }
                        Ok(None) => break Status::unknown("EOF"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if status.code() == Code::InvalidArgument {
            return Err(status.into());
        }
        env.err(&format!("{}\n", rpc(&status)));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}
