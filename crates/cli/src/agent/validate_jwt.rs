//! `api validate jwt`.

use async_trait::async_trait;
use steeple_proto::workload::ValidateJwtsvidRequest;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::Code;

use super::fetch_x509::TIMEOUT;
use super::{SOCKET, identity};
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line, proto_value};
use crate::{Env, FlagSet};

pub(super) struct Validate;

#[async_trait]
impl Verb for Validate {
    fn path(&self) -> &'static str {
        "api validate jwt"
    }

    fn usage_name(&self) -> &'static str {
        "validate jwt"
    }

    fn synopsis(&self) -> &'static str {
        "Validates a JWT SVID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.duration_value("timeout", TIMEOUT, "Time to wait for a response");
        flags.text("audience", "", "expected audience value");
        flags.text("svid", "", "JWT SVID");
    }

    fn describe(&self, failure: &Failure) -> String {
        format!("{}\n", failure.0)
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let audience = flags.str("audience").to_owned();
        if audience.is_empty() {
            return Err("audience must be specified".into());
        }
        let svid = flags.str("svid").to_owned();
        if svid.is_empty() {
            return Err("svid must be specified".into());
        }
        let mut client = SpiffeWorkloadApiClient::new(SOCKET.channel(flags, env)?);
        let request = identity::request(ValidateJwtsvidRequest { audience, svid });
        let call = client.validate_jwtsvid(request);
        let response = match identity::within(flags.dur("timeout"), call).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::InvalidArgument => {
                return Err(format!("SVID is not valid: {}", status.message()).into());
            }
            Err(status) => {
                return Err(Failure::from(status).context("unable to validate JWT SVID"));
            }
        };
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("ValidateJWTSVIDResponse", &response))?);
            return Ok(());
        }
        let claims = match &response.claims {
            Some(claims) => proto_value(&Named("google.protobuf.Struct", claims))?.to_string(),
            None => "{}".to_owned(),
        };
        env.out(&format!(
            "SVID is valid.\nSPIFFE ID : {}\nClaims    : {claims}\n",
            response.spiffe_id
        ));
        Ok(())
    }
}
