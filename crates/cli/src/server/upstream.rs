//! `upstreamauthority taint|revoke`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::localauthority::v1 as api;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;

use super::SOCKET;
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

/// What is done with the upstream authority.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    Taint,
    Revoke,
}

#[async_trait]
impl Verb for Upstream {
    fn path(&self) -> &'static str {
        match self {
            Self::Taint => "upstreamauthority taint",
            Self::Revoke => "upstreamauthority revoke",
        }
    }

    fn synopsis(&self) -> &'static str {
        match self {
            Self::Taint => "Marks the upstream authority of the old CA as tainted",
            Self::Revoke => "Takes the tainted upstream authority of the old CA out of the bundle",
        }
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text(
            "subjectKeyID",
            "",
            "The X.509 Subject Key Identifier of the upstream authority's CA certificate",
        );
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let subject_key_id = flags.str("subjectKeyID").to_owned();
        if subject_key_id.is_empty() {
            let text = "the Subject Key ID of the X.509 upstream authority is required";
            return Err(text.into());
        }
        let mut client = LocalAuthorityClient::new(SOCKET.channel(flags, env)?);
        let failed = |doing: &str, status| {
            let doing = format!("could not {doing} X.509 upstream authority");
            Failure::from(status).context(&doing)
        };
        let (done, id, json) = match self {
            Self::Taint => {
                let request = api::TaintX509UpstreamAuthorityRequest { subject_key_id };
                let answer = client.taint_x509_upstream_authority(request).await;
                let answer = answer.map_err(|status| failed("taint", status))?.into_inner();
                let name = "spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse";
                let json = proto_line(&Named(name, &answer))?;
                ("Tainted", answer.upstream_authority_subject_key_id, json)
            }
            Self::Revoke => {
                let request = api::RevokeX509UpstreamAuthorityRequest { subject_key_id };
                let answer = client.revoke_x509_upstream_authority(request).await;
                let answer = answer.map_err(|status| failed("revoke", status))?.into_inner();
                let name = "spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse";
                let json = proto_line(&Named(name, &answer))?;
                ("Revoked", answer.upstream_authority_subject_key_id, json)
            }
        };
        if Output::of(flags).is_json() {
            env.out(&json);
        } else {
            env.out(&format!("{done} X.509 upstream authority:\n  Subject Key ID: {id}\n"));
        }
        Ok(())
    }
}
