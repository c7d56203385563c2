//! `debug getinfo` on the admin socket.

use std::time::Duration;

use async_trait::async_trait;
use steeple_proto::spire::api::agent::debug::v1::GetInfoRequest;
use steeple_proto::spire::api::agent::debug::v1::debug_client::DebugClient;
use steeple_runtime::duration;

use super::admin_channel;
use crate::chain::{self, Link};
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct GetInfo;

#[async_trait]
impl Verb for GetInfo {
    fn path(&self) -> &'static str {
        "debug getinfo"
    }

    fn synopsis(&self) -> &'static str {
        "Prints debug information about the agent"
    }

    fn flags(&self, flags: &mut FlagSet) {
        super::declare_admin(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = DebugClient::new(admin_channel(flags));
        let info = client.get_info(GetInfoRequest {}).await?.into_inner();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("spire.agent.debug.v1.GetInfoResponse", &info))?);
            return Ok(());
        }
        let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or(0));
        let last_sync = match info.last_sync_success {
            0 => "(never)".to_owned(),
            at => gofmt::rfc3339(at),
        };
        env.out(&format!(
            "Agent Debug Info:\n  Uptime:                          {}\n  \
             Last Sync Success:               {last_sync}\n  \
             Cached X.509 SVIDs:              {}\n  Cached JWT SVIDs:                {}\n  \
             Cached SVID Store X.509 SVIDs:   {}\n",
            duration::format_go(uptime),
            info.cached_x509_svids_count,
            info.cached_jwt_svids_count,
            info.cached_svidstore_x509_svids_count
        ));
        env.out(&chain::text(info.svid_chain.iter().map(|link| Link {
            id: link.id.as_ref(),
            subject: &link.subject,
            expires_at: link.expires_at,
        })));
        Ok(())
    }
}
