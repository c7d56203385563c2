//! The command line.

use std::path::Path;
use std::process::ExitCode;

use steeple_runtime::version::VERSION;
use steeple_runtime::{log, rlimit};

use crate::{app, config};

const NAME: &str = "oidc-discovery-provider";
const USAGE: &str = "  -config string
    \tconfiguration file (default \"oidc-discovery-provider.conf\")
  -expandEnv
    \texpand environment variables in config file
  -version
    \tprint version
";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run { config: String, expand_env: bool },
    Version,
    Help,
}

/// Why they ask for nothing, and the status to exit with.
type Wrong = (String, u8);

/// Carries out the process's command line.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(Command::Version) => {
            say(&mut std::io::stdout(), &format!("{VERSION}\n"));
            ExitCode::SUCCESS
        }
        Ok(Command::Help) => {
            say(&mut std::io::stderr(), &format!("Usage of {}:\n{USAGE}", name()));
            ExitCode::SUCCESS
        }
        Ok(Command::Run { config, expand_env }) => match run(Path::new(&config), expand_env) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&mut std::io::stderr(), &format!("{error}\n"));
                ExitCode::FAILURE
            }
        },
        Err((text, status)) => {
            say(&mut std::io::stderr(), &format!("{text}\nUsage of {}:\n{USAGE}", name()));
            ExitCode::from(status)
        }
    }
}

/// What the program was called as.
fn name() -> String {
    std::env::args_os().next().map_or_else(|| NAME.into(), |it| it.to_string_lossy().into_owned())
}

/// Nobody is left to be told when this fails.
fn say(out: &mut dyn std::io::Write, text: &str) {
    let _ = out.write_all(text.as_bytes());
}

/// Reads arguments as Go's `flag` does.
fn parse(arguments: &[String]) -> Result<Command, Wrong> {
    let mut config = "oidc-discovery-provider.conf".to_owned();
    let (mut expand_env, mut version) = (false, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix('-').filter(|it| !it.is_empty()) else {
            let all: Vec<&str> =
                std::iter::once(argument).chain(rest).map(String::as_str).collect();
            return unexpected(version, &all);
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            let all: Vec<&str> = rest.map(String::as_str).collect();
            if !all.is_empty() {
                return unexpected(version, &all);
            }
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match name {
            "config" => match value.or_else(|| rest.next().map(String::as_str)) {
                Some(value) => value.clone_into(&mut config),
                None => return Err(("flag needs an argument: -config".to_owned(), 2)),
            },
            "expandEnv" => expand_env = boolean(name, value)?,
            "version" => version = boolean(name, value)?,
            "h" | "help" => return Ok(Command::Help),
            _ => return Err((format!("flag provided but not defined: -{name}"), 2)),
        }
    }
    Ok(if version { Command::Version } else { Command::Run { config, expand_env } })
}

fn unexpected(version: bool, arguments: &[&str]) -> Result<Command, Wrong> {
    if version {
        return Ok(Command::Version);
    }
    Err((format!("Error: unexpected arguments: [{}]", arguments.join(" ")), 1))
}

fn boolean(name: &str, value: Option<&str>) -> Result<bool, Wrong> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => {
            Err((format!("invalid boolean value {value:?} for -{name}: parse error"), 2))
        }
    }
}

fn run(path: &Path, expand_env: bool) -> Result<(), app::AppError> {
    let (config, notices) = config::load(path, expand_env)?;
    let log = log::init(&config.log)?;
    for notice in notices {
        tracing::warn!("{notice}");
    }
    rlimit::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(app::run(config, log));
    // What is still blocked (a dead disk) must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Command, Wrong> {
        parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn run_with(config: &str, expand_env: bool) -> Result<Command, Wrong> {
        Ok(Command::Run { config: config.to_owned(), expand_env })
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        assert_eq!(of(&[]), run_with("oidc-discovery-provider.conf", false));
        assert_eq!(of(&["-config", "a", "-expandEnv"]), run_with("a", true));
        assert_eq!(of(&["--config=a", "-expandEnv=false", "--"]), run_with("a", false));
        assert_eq!(of(&["-version"]), Ok(Command::Version));
        assert_eq!(of(&["-help"]), Ok(Command::Help));
        assert_eq!(of(&["-config"]).unwrap_err().1, 2);
        assert_eq!(of(&["-x"]).unwrap_err(), ("flag provided but not defined: -x".to_owned(), 2));
        assert_eq!(
            of(&["a", "b"]).unwrap_err(),
            ("Error: unexpected arguments: [a b]".to_owned(), 1)
        );
    }
}
