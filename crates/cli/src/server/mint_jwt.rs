//! `jwt mint`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_proto::spire::api::server::svid::v1::MintJwtsvidRequest;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;

use super::SOCKET;
use super::entry_text::wire_id;
use super::written::write;
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Mint;

#[async_trait]
impl Verb for Mint {
    fn path(&self) -> &'static str {
        "jwt mint"
    }

    fn synopsis(&self) -> &'static str {
        "Mints a JWT-SVID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("spiffeID", "", "SPIFFE ID of the JWT-SVID");
        flags.duration("ttl", Duration::ZERO, "TTL of the JWT-SVID");
        flags.repeated("audience", "Audience of the JWT-SVID. Can be used more than once");
        flags.text("write", "", "File to write the token to instead of standard output");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        if flags.str("spiffeID").is_empty() {
            return Err("spiffeID must be specified".into());
        }
        let audience = flags.list("audience");
        if audience.is_empty() {
            return Err("at least one audience must be specified".into());
        }
        let id = wire_id(flags.str("spiffeID"))?;
        let ttl = seconds(flags.dur("ttl"))?;
        let mut client = SvidClient::new(SOCKET.channel(flags, env)?);
        let request = MintJwtsvidRequest { id: Some(id), audience, ttl };
        let response = client
            .mint_jwtsvid(request)
            .await
            .map_err(|status| Failure::from(status).context("unable to mint SVID"))?
            .into_inner();
        let svid = response.svid.clone().unwrap_or_default();
        if svid.token.is_empty() {
            return Err("server response missing token".into());
        }
        warn_if_capped(env, "JWT-SVID", svid.expires_at, flags.dur("ttl"));
        match flags.str("write") {
            "" if Output::of(flags).is_json() => {
                let name = "spire.api.server.svid.v1.MintJWTSVIDResponse";
                env.out(&proto_line(&Named(name, &response))?);
            }
            "" => env.out(&format!("{}\n", svid.token)),
            path => {
                let path = write(Path::new(path), svid.token.as_bytes(), 0o600, "token")?;
                env.out(&format!("JWT-SVID written to {}\n", path.display()));
            }
        }
        Ok(())
    }
}

/// A duration in whole seconds, rounded up.
pub(super) fn seconds(ttl: Duration) -> Result<i32, Failure> {
    let seconds = ttl.as_nanos().div_ceil(1_000_000_000);
    i32::try_from(seconds).map_err(|_| {
        format!("invalid value for TTL: overflow converting int({seconds}) to int32").into()
    })
}

/// Tells when the server gave less than was asked for.
pub(super) fn warn_if_capped(env: &mut Env, what: &str, expires_at: i64, ttl: Duration) {
    let left =
        gofmt::from_seconds(expires_at).duration_since(SystemTime::now()).unwrap_or_default();
    if left < ttl {
        env.err(&format!(
            "{what} lifetime was capped shorter than specified ttl; expires {:?}\n",
            gofmt::rfc3339(expires_at)
        ));
    }
}
