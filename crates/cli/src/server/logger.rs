//! `logger get|set|reset`.

use async_trait::async_trait;
use steeple_proto::spire::api::server::logger::v1::logger_client::LoggerClient;
use steeple_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use steeple_proto::spire::api::types::{LogLevel, Logger};

use super::SOCKET;
use crate::dispatch::{Failure, Verb};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Get;
pub(super) struct Set;
pub(super) struct Reset;

fn declare(flags: &mut FlagSet) {
    SOCKET.declare(flags);
    Output::declare(flags);
}

#[async_trait]
impl Verb for Get {
    fn path(&self) -> &'static str {
        "logger get"
    }

    fn synopsis(&self) -> &'static str {
        "Gets the logger details"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = LoggerClient::new(SOCKET.channel(flags, env)?);
        let logger = client
            .get_logger(GetLoggerRequest {})
            .await
            .map_err(|status| Failure::from(status).context("error fetching logger"))?;
        print(flags, env, &logger.into_inner())
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
        declare(flags);
        flags.text(
            "level",
            "",
            "The new log level, one of (panic, fatal, error, warn, info, debug, trace)",
        );
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let new_level = level(flags.str("level"))?.into();
        let mut client = LoggerClient::new(SOCKET.channel(flags, env)?);
        let logger = client
            .set_log_level(SetLogLevelRequest { new_level })
            .await
            .map_err(|status| Failure::from(status).context("failed to set log level"))?;
        print(flags, env, &logger.into_inner())
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
        declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let mut client = LoggerClient::new(SOCKET.channel(flags, env)?);
        let logger = client
            .reset_log_level(ResetLogLevelRequest {})
            .await
            .map_err(|status| Failure::from(status).context("failed to reset logger"))?;
        print(flags, env, &logger.into_inner())
    }
}

/// The level of `-level`.
pub(crate) fn level(word: &str) -> Result<LogLevel, Failure> {
    match word.to_ascii_lowercase().as_str() {
        "" => Err("a value (-level) must be set".into()),
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(format!("the value {word:?} is not a valid setting").into()),
    }
}

/// A logger's levels, in the chosen format.
pub(crate) fn print(flags: &FlagSet, env: &mut Env, logger: &Logger) -> Result<(), Failure> {
    if Output::of(flags).is_json() {
        env.out(&proto_line(&Named("spire.api.types.Logger", logger))?);
        return Ok(());
    }
    let name = |level: LogLevel, which: &str| match level {
        LogLevel::Panic => Ok("panic"),
        LogLevel::Fatal => Ok("fatal"),
        LogLevel::Error => Ok("error"),
        LogLevel::Warn => Ok("warning"),
        LogLevel::Info => Ok("info"),
        LogLevel::Debug => Ok("debug"),
        LogLevel::Trace => Ok("trace"),
        LogLevel::Unspecified => Err(Failure(format!(
            "internal error: returned {which} log level is undefined; please report this as a bug"
        ))),
    };
    let current = name(logger.current_level(), "current")?;
    let launch = name(logger.launch_level(), "launch")?;
    env.out(&format!("Logger Level : {current}\nLaunch Level : {launch}\n\n"));
    Ok(())
}
