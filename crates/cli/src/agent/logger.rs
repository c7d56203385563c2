//! `logger get|set|reset` on the admin socket.

use async_trait::async_trait;
use steeple_proto::spire::api::agent::logger::v1::logger_client::LoggerClient;
use steeple_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};

use super::{admin_channel, declare_admin};
use crate::dispatch::{Failure, Verb};
use crate::server::{logger_level, print_logger};
use crate::{Env, FlagSet};

pub(super) struct Get;
pub(super) struct Set;
pub(super) struct Reset;

#[async_trait]
impl Verb for Get {
    fn path(&self) -> &'static str {
        "logger get"
    }

    fn synopsis(&self) -> &'static str {
        "Gets the logger details"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_admin(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = LoggerClient::new(admin_channel(flags));
        let logger = client
            .get_logger(GetLoggerRequest {})
            .await
            .map_err(|status| Failure::from(status).context("error fetching logger"))?;
        print_logger(flags, env, &logger.into_inner())
    }
}

#[async_trait]
impl Verb for Set {
    fn path(&self) -> &'static str {
        "logger set"
    }

    fn synopsis(&self) -> &'static str {
        "Sets the logger details"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_admin(flags);
        flags.text(
            "level",
            "",
            "The new log level, one of (panic, fatal, error, warn, info, debug, trace)",
        );
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let new_level = logger_level(flags.str("level"))?.into();
        let mut client = LoggerClient::new(admin_channel(flags));
        let logger = client
            .set_log_level(SetLogLevelRequest { new_level })
            .await
            .map_err(|status| Failure::from(status).context("failed to set log level"))?;
        print_logger(flags, env, &logger.into_inner())
    }
}

#[async_trait]
impl Verb for Reset {
    fn path(&self) -> &'static str {
        "logger reset"
    }

    fn synopsis(&self) -> &'static str {
        "Reset the logger details to launch level"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_admin(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = LoggerClient::new(admin_channel(flags));
        let logger = client
            .reset_log_level(ResetLogLevelRequest {})
            .await
            .map_err(|status| Failure::from(status).context("failed to reset logger"))?;
        print_logger(flags, env, &logger.into_inner())
    }
}
