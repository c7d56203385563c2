//! A helper for programs that cannot speak to the Workload API: it keeps their
//! certificate, key, roots and tokens in files, and tells them when these
//! change. Its configuration is spiffe-helper's.
//!
//! [`config`] reads and checks the file. `daemon` follows the Workload API
//! and ties the rest together: `material` turns what came into files,
//! `files` puts a set of them in place, `process` starts and signals.
//! `health` tells others whether all were written.
//!
//! Not here: any say about who the caller is; that is the agent's.
//!
//! To protect: a file is never seen half written, no file of a set takes its
//! name before all are on disk, and a key is at no moment readable by anybody
//! whom its mode does not let.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
pub mod config;
mod daemon;
mod files;
mod health;
mod material;
mod process;
mod workload;

use std::path::Path;

use steeple_runtime::Clock;
use tracing::{error, info};

use crate::config::Config;
use crate::daemon::Helper;

/// The name under which the helper logs.
pub(crate) const SYSTEM: &str = "spiffe-helper";

/// Runs by the file at `path` until it has done its work, or `shutdown` says to
/// stop, and gives the exit code. `daemon_mode` is the flag's say, over the
/// file's; `endpoint` the value of `SPIFFE_ENDPOINT_SOCKET`.
pub async fn run(
    path: &Path,
    daemon_mode: Option<bool>,
    endpoint: Option<String>,
    clock: &dyn Clock,
    shutdown: impl Future<Output = ()> + Send,
) -> i32 {
    info!(system = SYSTEM, "Using configuration file: {:?}", path.display().to_string());
    let config = match Config::load(path, daemon_mode, endpoint) {
        Ok(config) => config,
        Err(error) => {
            error!(system = SYSTEM, %error, "{}", error.step());
            return 1;
        }
    };
    let helper = Helper::new(config, clock);
    let outcome = if helper.is_daemon() {
        info!(system = SYSTEM, "Launching daemon");
        helper.follow(shutdown).await
    } else {
        info!(system = SYSTEM, "Daemon mode disabled");
        tokio::pin!(shutdown);
        tokio::select! {
            done = helper.fetch_once() => done,
            () = &mut shutdown => Ok(()),
        }
    };
    if let Err(error) = outcome {
        error!(system = SYSTEM, %error, "Error starting spiffe-helper");
        return 1;
    }
    info!(system = SYSTEM, "Exiting");
    0
}
