//! The command line's side of `run` and `validate`.

use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use steeple_cli::{Env, FlagSet, Program};
use steeple_config::{
    DEFAULT_SERVER_CONFIG_PATH, Notice, Problems, ServerConfig, ServerFlags, load_server,
};
use steeple_runtime::{gotext, log, rlimit, signal, umask};

use crate::{app, plugins};

/// How long plugins may look at their configuration, all together.
const VALIDATION: Duration = Duration::from_secs(30);

/// Carries out the process's command line.
pub fn main() -> ExitCode {
    if let Some(code) = steeple_plugin_host::exec_if_asked() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = Program { run, validate };
    let code = steeple_cli::server::main(&arguments, &mut Env::process(), program);
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
    if let Err(text) = resolves(&config) {
        return fail(env, &format!("{text}\n"));
    }
    // Before the log file, the first file that is written.
    let tightened = umask::tighten();
    let log = match log::init(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(env, &format!("{error}\n")),
    };
    umask::report(tightened);
    rlimit::raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(env, &format!("cannot start: {error}\n")),
    };
    let outcome = runtime.block_on(async {
        let shutdown = signal::shutdown();
        app::run(config, notices, log, shutdown).await
    });
    // What is still blocked (a dead disk, a remote signer) must not hold up the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => {
            tracing::info!("Server stopped gracefully");
            0
        }
        Err(error) => {
            tracing::error!(%error, "Fatal run error");
            tracing::error!(%error, "Server crashed");
            1
        }
    }
}

fn validate(flags: &FlagSet, env: &mut Env) -> i32 {
    let (config, notices) = match load(flags, env) {
        Ok(loaded) => loaded,
        // A file that is fine for SPIRE is a valid one; what `run` would
        // refuse all the same is said line by line.
        Err(problems) if problems.only_not_available() => {
            for notice in problems.notices() {
                env.err(&format!("{notice}\n"));
            }
            for problem in problems.iter() {
                env.err(&format!("run would refuse: {problem}\n"));
            }
            env.out("SPIRE server configuration file is valid.\n");
            return 0;
        }
        Err(problems) => {
            let text = format!("SPIRE server configuration file is invalid: {problems}\n");
            return fail(env, &text);
        }
    };
    for notice in notices {
        env.err(&format!("{notice}\n"));
    }
    if let Err(text) = resolves(&config) {
        return fail(env, &format!("SPIRE server configuration file is invalid: {text}\n"));
    }
    let remarks = match plugin_remarks(&config) {
        Ok(remarks) => remarks,
        Err(error) => {
            return fail(env, &format!("Could not validate configuration file: {error}\n"));
        }
    };
    if remarks.is_empty() {
        env.out("SPIRE server configuration file is valid.\n");
        return 0;
    }
    let mut text = "SPIRE server configuration file is invalid.\nValidation errors:\n".to_owned();
    for (plugin, remarks) in remarks {
        text.push_str(&format!("\t{plugin}:\n"));
        for remark in remarks {
            text.push_str(&format!("\t\t{remark}\n"));
        }
    }
    fail(env, &text)
}

/// A name to listen on has to be one of this host's.
fn resolves(config: &ServerConfig) -> Result<(), String> {
    let (host, port) = (config.bind_address.trim_matches(['[', ']']), config.bind_port);
    match (host, port).to_socket_addrs() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "could not resolve bind address \"{host}:{port}\": {}",
            gotext::lookup(host, &error)
        )),
    }
}

fn plugin_remarks(config: &ServerConfig) -> Result<Vec<(String, Vec<String>)>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let checking = async { tokio::time::timeout(VALIDATION, plugins::validate(config)).await };
    match runtime.block_on(checking) {
        Ok(remarks) => remarks.map_err(|error| error.to_string()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

fn load(flags: &FlagSet, env: &Env) -> Result<(ServerConfig, Vec<Notice>), Problems> {
    let path = flags.str("config");
    let path = (!path.is_empty() && path != DEFAULT_SERVER_CONFIG_PATH).then(|| Path::new(path));
    load_server(path, &server_flags(flags), flags.is_set("expandEnv"), &|name| env.var(name))
}

fn server_flags(flags: &FlagSet) -> ServerFlags {
    let text = |name| flags.str(name).to_owned();
    ServerFlags {
        bind_address: text("bindAddress"),
        server_port: flags.int("serverPort"),
        data_dir: text("dataDir"),
        log_file: text("logFile"),
        log_format: text("logFormat"),
        log_level: text("logLevel"),
        log_source_location: flags.is_set("logSourceLocation"),
        socket_path: text("socketPath"),
        trust_domain: text("trustDomain"),
    }
}

fn fail(env: &mut Env, text: &str) -> i32 {
    env.err(text);
    1
}
