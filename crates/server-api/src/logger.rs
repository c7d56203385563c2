//! `spire.api.server.logger.v1.Logger`: the log level of the running server.

use steeple_proto::spire::api::server::logger::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::LogLevel;
use steeple_runtime::log::{Level, LogHandle};
use tonic::{Request, Response, Status};

use crate::call::{Call, log_call};

/// The Logger service.
pub(crate) struct LoggerService {
    pub(crate) log: LogHandle,
}

#[tonic::async_trait]
impl pb::logger_server::Logger for LoggerService {
    async fn get_logger(
        &self,
        request: Request<pb::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let call = Call::of(&request)?;
        call.operator()?;
        log_call!(info, call, {}, "GetLogger Called");
        Ok(Response::new(self.levels()))
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let call = Call::of(&request)?;
        call.operator()?;
        let level = match LogLevel::try_from(request.get_ref().new_level) {
            Ok(LogLevel::Unspecified) => {
                let text = "newLevel value cannot be LogLevel_UNSPECIFIED";
                return Err(call.refuse(Status::invalid_argument(text)));
            }
            Ok(level) => level_of(level),
            Err(_unknown) => {
                return Err(call.refuse(Status::invalid_argument("unsupported log level")));
            }
        };
        log_call!(info, call, { new_log_level = level.as_str(), }, "SetLogLevel Called");
        self.log.set_level(level);
        Ok(Response::new(self.levels()))
    }

    async fn reset_log_level(
        &self,
        request: Request<pb::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let call = Call::of(&request)?;
        call.operator()?;
        let level = self.log.launch_level();
        log_call!(info, call, { launch_log_level = level.as_str(), }, "ResetLogLevel Called");
        self.log.set_level(level);
        Ok(Response::new(self.levels()))
    }
}

impl LoggerService {
    fn levels(&self) -> types::Logger {
        types::Logger {
            current_level: message(self.log.level()) as i32,
            launch_level: message(self.log.launch_level()) as i32,
        }
    }
}

fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Panic => Level::Panic,
        LogLevel::Fatal => Level::Fatal,
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Unspecified | LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
        LogLevel::Trace => Level::Trace,
    }
}

fn message(level: Level) -> LogLevel {
    match level {
        Level::Panic => LogLevel::Panic,
        Level::Fatal => LogLevel::Fatal,
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    }
}
