//! The verbs of `spire-server`.

mod agent_explain;
mod agents;
mod agents_filter;
mod agents_purge;
mod authority;
mod bundle;
mod bundle_text;
mod entry;
mod entry_delete;
mod entry_explain;
mod entry_file;
mod entry_show;
mod entry_text;
mod federation;
mod federation_file;
mod info;
mod logger;
mod mint_jwt;
mod mint_wit;
mod mint_x509;
mod token;
mod token_reusable;
mod upstream;
mod written;

pub(crate) use logger::{level as logger_level, print as print_logger};

use crate::client::Socket;
use crate::dispatch::{Commands, Program, Verb};
use crate::health::HealthCheck;
use crate::{Env, FlagSet};

pub(crate) static SOCKET: Socket = Socket {
    default: "/tmp/spire-server/private/api.sock",
    usage: "Path to the SPIRE Server API socket",
    variable: "SPIRE_SERVER_PRIVATE_SOCKET",
    template: "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
    instance_usage: "Instance name to substitute into socket templates (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE).",
    missing_template: "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag",
    dialed: "//",
};

/// Carries out `spire-server <args>` and returns the exit code.
pub fn main(args: &[String], env: &mut Env, program: Program) -> i32 {
    Commands {
        name: "spire-server",
        version: steeple_runtime::version::VERSION.to_owned(),
        verbs: verbs(env),
        program,
        socket: Some(&SOCKET),
        run_flags,
        run_synopsis: ["Runs the server", "Validates a SPIRE server configuration file"],
    }
    .main(args, env)
}

fn verbs(env: &Env) -> Vec<Box<dyn Verb>> {
    let mut verbs: Vec<Box<dyn Verb>> = vec![
        Box::new(agents::Ban),
        Box::new(agents::Count),
        Box::new(agents::Evict),
        Box::new(agents::List),
        Box::new(agents::Show),
        Box::new(agents_purge::Purge),
        Box::new(bundle::Count),
        Box::new(bundle::Delete),
        Box::new(bundle::List),
        Box::new(bundle::Set),
        Box::new(bundle::Show),
        Box::new(entry::Create),
        Box::new(entry::Update),
        Box::new(entry_delete::Delete),
        Box::new(agent_explain::Explain),
        Box::new(entry_explain::Explain),
        Box::new(entry_show::Count),
        Box::new(entry_show::Show),
        Box::new(HealthCheck {
            socket: &SOCKET,
            who: "server",
            title: "Server",
            usage_name: "healthcheck",
            synopsis: "Determines server health status",
            unhealthy: "Error: server is unhealthy: ",
        }),
        Box::new(info::GetInfo),
        Box::new(logger::Get),
        Box::new(logger::Reset),
        Box::new(logger::Set),
        Box::new(mint_jwt::Mint),
        Box::new(mint_x509::Mint),
        Box::new(token::Generate),
        Box::new(token_reusable::Create),
        Box::new(token_reusable::List),
        Box::new(token_reusable::Revoke),
        Box::new(upstream::Upstream::Taint),
        Box::new(upstream::Upstream::Revoke),
    ];
    verbs.extend(authority::verbs());
    if mint_wit::is_enabled(env) {
        verbs.push(Box::new(mint_wit::Mint));
    }
    verbs.extend(federation::verbs());
    verbs
}

fn run_flags(flags: &mut FlagSet) {
    flags.text("bindAddress", "", "IP address or DNS name of the SPIRE server");
    flags.integer("serverPort", 0, "Port number of the SPIRE server");
    flags.text("config", "", "Path to a SPIRE config file");
    flags.text("dataDir", "", "Directory to store runtime data to");
    flags.text("logFile", "", "File to write logs to");
    flags.text("logFormat", "", "'text' or 'json'");
    flags.switch("logSourceLocation", "Include source file, line and function name in log lines");
    flags.text("logLevel", "", "'debug', 'info', 'warn', or 'error'");
    flags.text("trustDomain", "", "The trust domain that this server belongs to");
    flags.text("socketPath", "", "Path to bind the SPIRE Server API socket to");
    flags.switch("expandEnv", "Expand environment variables in SPIRE config file");
}
