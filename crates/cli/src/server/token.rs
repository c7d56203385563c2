//! `token generate`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;

use super::SOCKET;
use super::entry_text::wire_id;
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Generate;

#[async_trait]
impl Verb for Generate {
    fn path(&self) -> &'static str {
        "token generate"
    }

    fn usage_name(&self) -> &'static str {
        "generate"
    }

    fn synopsis(&self) -> &'static str {
        "Generates a join token"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.integer("ttl", 600, "Token TTL in seconds");
        flags.text("spiffeID", "", "Additional SPIFFE ID to assign the token owner (optional)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let id = flags.str("spiffeID");
        let agent_id = if id.is_empty() { None } else { Some(wire_id(id)?) };
        let ttl = flags.int("ttl");
        let ttl = i32::try_from(ttl).map_err(|_| {
            Failure(format!("invalid value for TTL: overflow converting int({ttl}) to int32"))
        })?;
        let request = CreateJoinTokenRequest { ttl, agent_id, ..Default::default() };
        let mut client = AgentClient::new(SOCKET.channel(flags, env)?);
        let token = client.create_join_token(request).await?.into_inner();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("spire.api.types.JoinToken", &token))?);
            return Ok(());
        }
        env.out(&format!("Token: {}\n", token.value));
        if id.is_empty() {
            env.out("Warning: Missing SPIFFE ID.\n");
        }
        Ok(())
    }
}
