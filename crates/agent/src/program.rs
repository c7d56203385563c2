//! The command line's side of `run` and `validate`.

use std::path::Path;
use std::process::ExitCode;

use steeple_cli::{Env, FlagSet, Program};
use steeple_config::{
    AgentConfig, AgentFlags, DEFAULT_AGENT_CONFIG_PATH, Notice, Problems, load_agent,
};
use steeple_net::unix::{Given, Sockets};
use steeple_runtime::{fsx, log, rlimit, signal, systemd, umask};

use crate::app;
use crate::error::AgentError;

/// Carries out the process's command line.
pub fn main() -> ExitCode {
    if let Some(code) = steeple_plugin_host::exec_if_asked() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = Program { run, validate };
    let code = steeple_cli::agent::main(&arguments, &mut Env::process(), program);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(flags: &FlagSet, env: &mut Env) -> i32 {
    let (config, notices) = match load(flags, env) {
        Ok(loaded) => loaded,
        Err(problems) => {
            steeple_ops::tell_unknown(&problems);
            return fail(env, &format!("{problems}\n"));
        }
    };
    let log = match log::init(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(env, &format!("{error}\n")),
    };
    if let Err(error) = prepare_directories(&config) {
        return fail(env, &format!("{error}\n"));
    }
    rlimit::raise_open_files();
    // While there is only this thread.
    let sockets = given_by_systemd();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(env, &format!("cannot start: {error}\n")),
    };
    let outcome = runtime.block_on(async {
        let shutdown = signal::shutdown();
        Box::pin(app::run(config, notices, log, sockets, shutdown)).await
    });
    // What is still blocked (a plugin, a dead disk) must not hold up the exit.
    runtime.shutdown_background();
    app::conclude(&outcome)
}

/// Sockets that systemd opened, by their paths and names.
fn given_by_systemd() -> Sockets {
    let sockets = Sockets::new();
    for (name, listener) in systemd::listeners() {
        let path = listener.local_addr().ok().and_then(|it| it.as_pathname().map(Path::to_owned));
        let path = path.unwrap_or_default();
        tracing::info!(name, path = %path.display(), "Got a socket from systemd");
        sockets.give(Given { path, name, inode: None, listener });
    }
    sockets
}

/// The Workload API's directory is for everybody and made before the mask is
/// tightened, everything else after.
fn prepare_directories(config: &AgentConfig) -> Result<(), AgentError> {
    if let Some(directory) = config.socket_path.as_deref().and_then(Path::parent) {
        make_directory(directory, "Creating spire agent UDS directory")?;
    }
    umask::report(umask::tighten());
    if let Some(directory) = config.admin_socket_path.as_deref().and_then(Path::parent) {
        make_directory(directory, "Creating admin UDS directory")?;
    }
    let broker = config.broker.as_ref().and_then(|broker| broker.socket_path.as_deref());
    if let Some(directory) = broker.and_then(Path::parent) {
        make_directory(directory, "Creating broker UDS directory")?;
    }
    Ok(())
}

fn make_directory(directory: &Path, line: &'static str) -> Result<(), AgentError> {
    if directory.exists() {
        return Ok(());
    }
    tracing::info!(dir = %directory.display(), "{line}");
    fsx::create_dir_all(directory, 0o755).map_err(|source| AgentError::File {
        what: "cannot create directory",
        path: directory.to_owned(),
        source,
    })
}

fn validate(flags: &FlagSet, env: &mut Env) -> i32 {
    match load(flags, env) {
        Ok((_, notices)) => {
            for notice in notices {
                env.err(&format!("{notice}\n"));
            }
            env.out("SPIRE agent configuration file is valid.\n");
            0
        }
        // A file that is fine for SPIRE is a valid one; what `run` would
        // refuse all the same is said line by line.
        Err(problems) if problems.only_at_start() => {
            for notice in problems.notices() {
                env.err(&format!("{notice}\n"));
            }
            for problem in problems.iter() {
                env.err(&format!("run would refuse: {problem}\n"));
            }
            env.out("SPIRE agent configuration file is valid.\n");
            0
        }
        Err(problems) => {
            fail(env, &format!("SPIRE agent configuration file is invalid: {problems}\n"))
        }
    }
}

fn load(flags: &FlagSet, env: &Env) -> Result<(AgentConfig, Vec<Notice>), Problems> {
    let path = flags.str("config");
    let path = (path != DEFAULT_AGENT_CONFIG_PATH).then(|| Path::new(path));
    load_agent(path, &agent_flags(flags), flags.is_set("expandEnv"), &|name| env.var(name))
}

fn agent_flags(flags: &FlagSet) -> AgentFlags {
    let text = |name| flags.str(name).to_owned();
    AgentFlags {
        allow_unauthenticated_verifiers: flags.is_set("allowUnauthenticatedVerifiers"),
        data_dir: text("dataDir"),
        disable_sds_api: flags.is_set("disableSDSAPI"),
        disable_workload_api: flags.is_set("disableWorkloadAPI"),
        insecure_bootstrap: flags.is_set("insecureBootstrap"),
        join_token: text("joinToken"),
        join_token_file: text("joinTokenFile"),
        log_file: text("logFile"),
        log_format: text("logFormat"),
        log_level: text("logLevel"),
        log_source_location: flags.is_set("logSourceLocation"),
        rebootstrap_delay: text("rebootstrapDelay"),
        rebootstrap_mode: text("rebootstrapMode"),
        server_address: text("serverAddress"),
        server_port: flags.int("serverPort"),
        socket_path: text("socketPath"),
        trust_bundle: text("trustBundle"),
        trust_bundle_format: text("trustBundleFormat"),
        trust_bundle_url: text("trustBundleUrl"),
        trust_domain: text("trustDomain"),
    }
}

fn fail(env: &mut Env, text: &str) -> i32 {
    env.err(text);
    1
}
