//! `localauthority x509|jwt show|prepare|activate|taint|revoke`: the steps of a
//! forced rotation, one implementation for both kinds of authority.

use std::fmt::Write as _;

use async_trait::async_trait;
use steeple_proto::spire::api::server::localauthority::v1 as api;
use steeple_proto::spire::api::server::localauthority::v1::AuthorityState;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use tonic::transport::Channel;

use super::SOCKET;
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

/// Whose key is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    X509,
    Jwt,
}

/// What is done with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Show,
    Prepare,
    Activate,
    Taint,
    Revoke,
}

/// One verb.
pub(super) struct Authority(pub(super) Kind, pub(super) Step);

/// Every verb of both kinds.
pub(super) fn verbs() -> impl Iterator<Item = Box<dyn Verb>> {
    let steps = [Step::Show, Step::Prepare, Step::Activate, Step::Taint, Step::Revoke];
    [Kind::X509, Kind::Jwt]
        .into_iter()
        .flat_map(move |kind| steps.map(|step| Box::new(Authority(kind, step)) as Box<dyn Verb>))
}

#[async_trait]
impl Verb for Authority {
    fn path(&self) -> &'static str {
        match (self.0, self.1) {
            (Kind::X509, Step::Show) => "localauthority x509 show",
            (Kind::X509, Step::Prepare) => "localauthority x509 prepare",
            (Kind::X509, Step::Activate) => "localauthority x509 activate",
            (Kind::X509, Step::Taint) => "localauthority x509 taint",
            (Kind::X509, Step::Revoke) => "localauthority x509 revoke",
            (Kind::Jwt, Step::Show) => "localauthority jwt show",
            (Kind::Jwt, Step::Prepare) => "localauthority jwt prepare",
            (Kind::Jwt, Step::Activate) => "localauthority jwt activate",
            (Kind::Jwt, Step::Taint) => "localauthority jwt taint",
            (Kind::Jwt, Step::Revoke) => "localauthority jwt revoke",
        }
    }

    fn synopsis(&self) -> &'static str {
        match self.1 {
            Step::Show => "Shows the local authorities",
            Step::Prepare => "Makes a new authority and puts it into the bundle",
            Step::Activate => "Signs with the prepared authority from now on",
            Step::Taint => "Marks the old authority as tainted",
            Step::Revoke => "Takes the old authority out of the bundle",
        }
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        if !matches!(self.1, Step::Show | Step::Prepare) {
            flags.text("authorityID", "", "The ID of the authority");
        }
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("authorityID").to_owned();
        if id.is_empty() && !matches!(self.1, Step::Show | Step::Prepare) {
            return Err("an authority ID is required".into());
        }
        let client = LocalAuthorityClient::new(SOCKET.channel(flags, env)?);
        let answer = self.call(client, id).await?;
        if Output::of(flags).is_json() {
            env.out(&answer.json);
            return Ok(());
        }
        env.out(&self.text(&answer)?);
        Ok(())
    }
}

/// What came back: the states that the step is about, and the message as JSON.
struct Answer {
    json: String,
    states: Vec<Option<AuthorityState>>,
}

/// Calls one method and takes its fields out of the answer.
macro_rules! call {
    ($client:ident . $method:ident($request:expr), $name:literal, $($field:ident),+) => {{
        let response = $client.$method($request).await?.into_inner();
        let name = concat!("spire.api.server.localauthority.v1.", $name, "Response");
        Answer { json: proto_line(&Named(name, &response))?, states: vec![$(response.$field),+] }
    }};
}

impl Authority {
    async fn call(
        &self,
        mut client: LocalAuthorityClient<Channel>,
        authority_id: String,
    ) -> Result<Answer, Failure> {
        let answer: Result<Answer, Failure> = async {
            Ok(match (self.0, self.1) {
                (Kind::X509, Step::Show) => call!(
                    client.get_x509_authority_state(api::GetX509AuthorityStateRequest {}),
                    "GetX509AuthorityState",
                    active,
                    prepared,
                    old
                ),
                (Kind::X509, Step::Prepare) => call!(
                    client.prepare_x509_authority(api::PrepareX509AuthorityRequest {}),
                    "PrepareX509Authority",
                    prepared_authority
                ),
                (Kind::X509, Step::Activate) => call!(
                    client.activate_x509_authority(api::ActivateX509AuthorityRequest {
                        authority_id
                    }),
                    "ActivateX509Authority",
                    activated_authority
                ),
                (Kind::X509, Step::Taint) => call!(
                    client.taint_x509_authority(api::TaintX509AuthorityRequest { authority_id }),
                    "TaintX509Authority",
                    tainted_authority
                ),
                (Kind::X509, Step::Revoke) => call!(
                    client.revoke_x509_authority(api::RevokeX509AuthorityRequest { authority_id }),
                    "RevokeX509Authority",
                    revoked_authority
                ),
                (Kind::Jwt, Step::Show) => call!(
                    client.get_jwt_authority_state(api::GetJwtAuthorityStateRequest {}),
                    "GetJWTAuthorityState",
                    active,
                    prepared,
                    old
                ),
                (Kind::Jwt, Step::Prepare) => call!(
                    client.prepare_jwt_authority(api::PrepareJwtAuthorityRequest {}),
                    "PrepareJWTAuthority",
                    prepared_authority
                ),
                (Kind::Jwt, Step::Activate) => call!(
                    client
                        .activate_jwt_authority(api::ActivateJwtAuthorityRequest { authority_id }),
                    "ActivateJWTAuthority",
                    activated_authority
                ),
                (Kind::Jwt, Step::Taint) => call!(
                    client.taint_jwt_authority(api::TaintJwtAuthorityRequest { authority_id }),
                    "TaintJWTAuthority",
                    tainted_authority
                ),
                (Kind::Jwt, Step::Revoke) => call!(
                    client.revoke_jwt_authority(api::RevokeJwtAuthorityRequest { authority_id }),
                    "RevokeJWTAuthority",
                    revoked_authority
                ),
            })
        }
        .await;
        let doing = match self.1 {
            Step::Show if self.0 == Kind::Jwt => return answer,
            Step::Show => return answer.map_err(|e| e.context("could not get X.509 authorities")),
            Step::Prepare => "prepare",
            Step::Activate => "activate",
            Step::Taint => "taint",
            Step::Revoke => "revoke",
        };
        answer
            .map_err(|error| error.context(&format!("could not {doing} {} authority", self.kind())))
    }

    fn kind(&self) -> &'static str {
        match self.0 {
            Kind::X509 => "X.509",
            Kind::Jwt => "JWT",
        }
    }

    fn text(&self, answer: &Answer) -> Result<String, Failure> {
        let titles: &[&str] = match self.1 {
            Step::Show => &["Active", "Prepared", "Old"],
            Step::Prepare => &["Prepared"],
            Step::Activate => &["Activated"],
            Step::Taint => &["Tainted"],
            Step::Revoke => &["Revoked"],
        };
        let kind = self.kind();
        let mut text = String::new();
        for (index, (title, state)) in titles.iter().zip(&answer.states).enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let _ = writeln!(text, "{title} {kind} authority:");
            match state {
                Some(state) => self.describe(&mut text, state),
                None if self.1 == Step::Show => {
                    let _ = writeln!(text, "  No {} {kind} authority found", title.to_lowercase());
                }
                None => {
                    return Err(format!(
                        "internal error: expected to have {} {kind} authority information",
                        title.to_lowercase()
                    )
                    .into());
                }
            }
        }
        Ok(text)
    }

    fn describe(&self, text: &mut String, state: &AuthorityState) {
        let _ = writeln!(text, "  Authority ID: {}", state.authority_id);
        let _ = writeln!(text, "  Expires at: {}", gofmt::utc_seconds(state.expires_at));
        if self.0 == Kind::Jwt {
            return;
        }
        let _ = match state.upstream_authority_subject_key_id.as_str() {
            "" => writeln!(text, "  Upstream authority ID: No upstream authority"),
            id => writeln!(text, "  Upstream authority Subject Key ID: {id}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said() {
        let state = AuthorityState {
            authority_id: "abc".into(),
            expires_at: 0,
            upstream_authority_subject_key_id: String::new(),
        };
        let answer = Answer { json: String::new(), states: vec![Some(state), None, None] };
        assert_eq!(
            Authority(Kind::X509, Step::Show).text(&answer).unwrap(),
            "Active X.509 authority:\n  Authority ID: abc\n  \
             Expires at: 1970-01-01 00:00:00 +0000 UTC\n  \
             Upstream authority ID: No upstream authority\n\n\
             Prepared X.509 authority:\n  No prepared X.509 authority found\n\n\
             Old X.509 authority:\n  No old X.509 authority found\n"
        );
    }
}
