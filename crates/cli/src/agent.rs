//! The verbs of `spire-agent`.

mod explain;
mod fetch_jwt;
mod fetch_x509;
mod helper;
mod identity;
mod info;
mod logger;
mod tpm;
mod validate_jwt;
mod watch;

use tonic::transport::Channel;

use crate::client::{self, Socket};
use crate::dispatch::{Commands, Program, Verb};
use crate::health::HealthCheck;
use crate::output::Output;
use crate::{Env, FlagSet};

pub(crate) static SOCKET: Socket = Socket {
    default: "/tmp/spire-agent/public/api.sock",
    usage: "Path to the SPIRE Agent API Unix domain socket",
    variable: "SPIRE_AGENT_PUBLIC_SOCKET",
    template: "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
    instance_usage: "Instance name to substitute into socket templates (env SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE).",
    missing_template: " SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be defined when using the instance flag",
    dialed: "",
};

const ADMIN_SOCKET: &str = "/tmp/spire-agent/private/admin.sock";

/// The flags that every verb of the admin socket has.
fn declare_admin(flags: &mut FlagSet) {
    flags.text("socketPath", ADMIN_SOCKET, "Path to the SPIRE Agent admin API socket");
    Output::declare(flags);
}

/// A channel to the admin socket.
fn admin_channel(flags: &FlagSet) -> Channel {
    let path = match flags.str("socketPath") {
        "" => ADMIN_SOCKET.to_owned(),
        path => path.to_owned(),
    };
    client::channel(path, "//")
}

/// Carries out `spire-agent <args>` and returns the exit code.
pub fn main(args: &[String], env: &mut Env, program: Program) -> i32 {
    Commands {
        name: "spire-agent",
        version: steeple_runtime::version::VERSION.to_owned(),
        verbs: verbs(),
        program,
        socket: None,
        run_flags,
        run_synopsis: ["Runs the agent", "Validates a SPIRE agent configuration file"],
    }
    .main(args, env)
}

fn verbs() -> Vec<Box<dyn Verb>> {
    vec![
        Box::new(fetch_x509::Fetch { path: "api fetch" }),
        Box::new(fetch_x509::Fetch { path: "api fetch x509" }),
        Box::new(fetch_jwt::Fetch),
        Box::new(validate_jwt::Validate),
        Box::new(watch::Watch),
        Box::new(helper::Helper),
        Box::new(HealthCheck {
            socket: &SOCKET,
            who: "agent",
            title: "Agent",
            usage_name: "health",
            synopsis: "Determines agent health status",
            unhealthy: "Agent is unhealthy: ",
        }),
        Box::new(explain::Explain),
        Box::new(info::GetInfo),
        Box::new(logger::Get),
        Box::new(logger::Set),
        Box::new(logger::Reset),
        Box::new(tpm::Show),
    ]
}

fn run_flags(flags: &mut FlagSet) {
    flags.text("config", "conf/agent/agent.conf", "Path to a SPIRE config file");
    flags.text("dataDir", "", "A directory the agent can use for its runtime data");
    flags.text("joinToken", "", "A join token that the SPIRE server generated");
    flags.text("joinTokenFile", "", "Path to a file with a join token");
    flags.text("logFile", "", "File to write logs to");
    flags.text("logFormat", "", "'text' or 'json'");
    flags.text("logLevel", "", "'debug', 'info', 'warn', or 'error'");
    flags.switch("logSourceLocation", "Include source file, line and function name in log lines");
    flags.text("serverAddress", "", "IP address or DNS name of the SPIRE server");
    flags.integer("serverPort", 0, "Port number of the SPIRE server");
    flags.text("trustDomain", "", "The trust domain that this agent belongs to");
    flags.switch("disableWorkloadAPI", "Disable the SPIFFE Workload API");
    flags.switch("disableSDSAPI", "Disable the Envoy SDS API");
    flags.text("trustBundle", "", "Path to the SPIRE server CA bundle");
    flags.text("trustBundleUrl", "", "URL to download the SPIRE server CA bundle");
    flags.text(
        "trustBundleFormat",
        "",
        "Format of the bootstrap trust bundle, \"pem\" or \"spiffe\"",
    );
    flags.switch(
        "allowUnauthenticatedVerifiers",
        "If true, unregistered clients may fetch X509 bundles",
    );
    flags.switch("insecureBootstrap", "If true, the first contact does not verify the server");
    flags.text("rebootstrapMode", "", "Can be one of 'never', 'auto', or 'always'");
    flags.text(
        "rebootstrapDelay",
        "",
        "How long to wait after a certificate mismatch with the server",
    );
    flags.switch("expandEnv", "Expand environment variables in SPIRE config file");
    flags.text("socketPath", "", "Path to bind the SPIRE Agent API socket to");
}
