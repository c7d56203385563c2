//! `helper`: certificates, keys and tokens in files, for programs without a
//! library. The work is `steeple-helper`'s.

use std::path::Path;

use async_trait::async_trait;
use steeple_runtime::log::{self, LogConfig};
use steeple_runtime::{SystemClock, signal, version};

use crate::dispatch::{Failure, Verb};
use crate::{Env, FlagSet};

pub(super) struct Helper;

#[async_trait]
impl Verb for Helper {
    fn path(&self) -> &'static str {
        "helper"
    }

    fn synopsis(&self) -> &'static str {
        "Keeps SVIDs, keys and bundles in files, as spiffe-helper does"
    }

    fn flags(&self, flags: &mut FlagSet) {
        flags.text("config", "helper.conf", "<configFile> Configuration file path");
        flags.switch(
            "daemon-mode",
            "Toggle running as a daemon to rotate X.509/JWT or just fetch and exit",
        );
        flags.switch("version", "print version");
    }

    fn describe(&self, failure: &Failure) -> String {
        failure.0.clone()
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        if flags.is_set("version") {
            env.out(&format!("{}\n", version::VERSION));
            return Ok(());
        }
        // Standard output is the program's that the helper runs.
        log::init_on_stderr(&LogConfig::default())
            .map_err(|error| Failure(format!("could not start logger: {error}\n")))?;
        let config = Path::new(flags.str("config"));
        let (mode, endpoint) = (flags.tri("daemon-mode"), env.var("SPIFFE_ENDPOINT_SOCKET"));
        let ended =
            steeple_helper::run(config, mode, endpoint, &SystemClock, signal::shutdown()).await;
        // What went wrong was logged.
        if ended == 0 { Ok(()) } else { Err(Failure(String::new())) }
    }
}
