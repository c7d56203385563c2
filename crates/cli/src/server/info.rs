//! `debug getinfo`.

use std::time::Duration;

use async_trait::async_trait;
use steeple_proto::spire::api::server::debug::v1::GetInfoRequest;
use steeple_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use steeple_runtime::duration;

use super::SOCKET;
use crate::chain::{self, Link};
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct GetInfo;

#[async_trait]
impl Verb for GetInfo {
    fn path(&self) -> &'static str {
        "debug getinfo"
    }

    fn synopsis(&self) -> &'static str {
        "Prints debug information about the server"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = DebugClient::new(SOCKET.channel(flags, env)?);
        let info = client.get_info(GetInfoRequest {}).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.debug.v1.GetInfoResponse";
            env.out(&proto_line(&Named(name, &info))?);
            return Ok(());
        }
        let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or(0));
        env.out(&format!(
            "Server Debug Info:\n  Uptime:                  {}\n  Registered Agents:       {}\n  \
             Registration Entries:    {}\n  Federated Bundles:       {}\n",
            duration::format_go(uptime),
            info.agents_count,
            info.entries_count,
            info.federated_bundles_count
        ));
        env.out(&chain::text(info.svid_chain.iter().map(|link| Link {
            id: link.id.as_ref(),
            subject: &link.subject,
            expires_at: link.expires_at,
        })));
        Ok(())
    }
}
