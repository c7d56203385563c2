//! `api fetch jwt`.

use async_trait::async_trait;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{JwtBundlesRequest, JwtsvidRequest};
use tonic::Status;

use super::fetch_x509::TIMEOUT;
use super::{SOCKET, identity};
use crate::dispatch::{Failure, Verb};
use crate::output::{self, Named, Output, proto_value};
use crate::{Env, FlagSet};

pub(super) struct Fetch;

#[async_trait]
impl Verb for Fetch {
    fn path(&self) -> &'static str {
        "api fetch jwt"
    }

    fn usage_name(&self) -> &'static str {
        "fetch jwt"
    }

    fn synopsis(&self) -> &'static str {
        "Fetches a JWT SVID from the Workload API"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.output("format", "deprecated; use -output");
        flags.duration_value("timeout", TIMEOUT, "Time to wait for a response");
        flags.comma_list("audience", "comma separated list of audience values");
        flags.text("spiffeID", "", "SPIFFE ID subject (optional)");
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("{}\n", failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let audience = flags.list("audience");
        if audience.is_empty() {
            return Err("audience must be specified".into());
        }
        let limit = flags.dur("timeout");
        let mut client = SpiffeWorkloadApiClient::new(SOCKET.channel(flags, env)?);
        let bundles = identity::within(limit, async {
            let request = identity::request(JwtBundlesRequest {});
            let mut stream = client.fetch_jwt_bundles(request).await?.into_inner();
            stream.message().await?.ok_or_else(|| Status::unknown("EOF"))
        })
        .await
        .map_err(unreached)?;
        let spiffe_id = flags.str("spiffeID").to_owned();
        let request = identity::request(JwtsvidRequest { audience, spiffe_id });
        let svids = identity::within(limit, client.fetch_jwtsvid(request)).await?.into_inner();
        if Output::of(flags).is_json() || flags.str("format") == "json" {
            let messages = serde_json::Value::Array(vec![
                proto_value(&Named("JWTSVIDResponse", &svids))?,
                proto_value(&Named("JWTBundlesResponse", &bundles))?,
            ]);
            env.out(&output::line(&messages));
            return Ok(());
        }
        for svid in &svids.svids {
            env.out(&format!("token({}):\n\t{}\n", svid.spiffe_id, svid.svid));
            if !svid.hint.is_empty() {
                env.out(&format!("hint({}):\n\t{}\n", svid.spiffe_id, svid.hint));
            }
        }
        for (domain, keys) in &bundles.bundles {
            env.out(&format!("bundle({domain}):\n\t{}\n", String::from_utf8_lossy(keys)));
        }
        Ok(())
    }
}

/// SPIRE says what it was after where no connection came about, and only there.
fn unreached(status: Status) -> Failure {
    let failure = Failure::from(status);
    match failure.0.contains(" desc = connection error: ") {
        true => failure.context("failed to receive JWT bundles"),
        false => failure,
    }
}
