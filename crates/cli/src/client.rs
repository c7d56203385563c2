//! Sockets: which one to talk to, and what a failed call reads like.

use std::error::Error as _;
use std::io;

use hyper_util::rt::TokioIo;
use steeple_runtime::gotext;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::Env;
use crate::dispatch::Failure;
use crate::flags::FlagSet;

/// One program's socket: its default, and the variables that override it.
pub(crate) struct Socket {
    pub(crate) default: &'static str,
    pub(crate) usage: &'static str,
    /// Names the socket outright.
    pub(crate) variable: &'static str,
    /// Holds a template with `%i` for `-instance`.
    pub(crate) template: &'static str,
    pub(crate) instance_usage: &'static str,
    pub(crate) missing_template: &'static str,
    /// What a failure to connect shows before the path, as SPIRE does.
    pub(crate) dialed: &'static str,
}

impl Socket {
    /// Declares `-socketPath` and `-instance`.
    pub(crate) fn declare(&self, flags: &mut FlagSet) {
        flags.text("socketPath", self.default, self.usage);
        flags.text("instance", "", self.instance_usage);
    }

    /// A flag that is not at its default wins, then the instance, then the
    /// variable.
    pub(crate) fn resolve(&self, flags: &FlagSet, env: &Env) -> Result<String, Failure> {
        let instance = flags.str("instance");
        let template = env.var(self.template).unwrap_or_default();
        if !instance.is_empty() {
            if template.is_empty() {
                return Err(self.missing_template.into());
            }
            if !template.contains("%i") {
                return Err(format!("failed to find %i in {}", self.template).into());
            }
        }
        let flag = flags.str("socketPath");
        Ok(if flag != self.default {
            flag.to_owned()
        } else if !instance.is_empty() {
            template.replace("%i", instance)
        } else {
            env.var(self.variable).unwrap_or_else(|| self.default.to_owned())
        })
    }

    /// A channel to the resolved socket; it connects with the first call.
    pub(crate) fn channel(&self, flags: &FlagSet, env: &Env) -> Result<Channel, Failure> {
        Ok(channel(self.resolve(flags, env)?, self.dialed))
    }
}

/// A channel to a Unix socket; it connects with the first call. A failure shows `dialed` before
/// the path.
pub(crate) fn channel(path: String, dialed: &'static str) -> Channel {
    let path = path.strip_prefix("unix://").map(str::to_owned).unwrap_or(path);
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let path = path.clone();
            async move {
                UnixStream::connect(&path).await.map(TokioIo::new).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("dial unix {dialed}{path}: connect: {}", gotext::system(&error)),
                    )
                })
            }
        },
    ))
}

/// A failed call in the words of grpc-go.
pub(crate) fn rpc(status: &Status) -> String {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.to_string().starts_with("dial unix")
        {
            return format!(
                "rpc error: code = Unavailable desc = connection error: \
                 desc = \"transport: Error while dialing: {error}\""
            );
        }
        source = error.source();
    }
    format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(rpc(&status))
    }
}

/// A status code as Go prints it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_told_as_grpc_go_tells_it() {
        let channel = channel("/nonexistent/api.sock".to_owned(), "");
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
        let status = client
            .check(tonic_health::pb::HealthCheckRequest { service: String::new() })
            .await
            .unwrap_err();
        assert_eq!(
            rpc(&status),
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error \
             while dialing: dial unix /nonexistent/api.sock: connect: no such file or directory\""
        );
    }
}
