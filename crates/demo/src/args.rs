//! The command line: that of the demonstration, and those that it starts itself with.

use std::ffi::OsString;
use std::path::PathBuf;

use steeple_spiffe::SpiffeId;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Shows an identity being issued, used and rotated, with the real server and agent.

Usage: steeple-demo [--bin DIR] [--state-dir DIR] [--once]

  --bin DIR        where spire-server and spire-agent are (default: beside this program)
  --state-dir DIR  keep the state in DIR, and start from what is there
                   (default: .state, emptied first)
  --once           end after the last step instead of waiting for Ctrl-C

NO_COLOR turns colours off.
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Demo(Options),
    Workload(Role),
    Guard { parent: i32, program: OsString, arguments: Vec<OsString> },
}

/// How to demonstrate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) bin: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) once: bool,
}

/// What a child process does with the Workload API.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Tells its X.509-SVID.
    X509 { wait: bool },
    /// Tells each X.509-SVID that it is given.
    Watch,
    /// Tells a JWT-SVID for `audience`.
    Jwt { audience: String },
    /// Asks whether the token on standard input is good for `audience`.
    Validate { audience: String },
    /// Serves mutual TLS to `allow` and to nobody else.
    Serve { allow: SpiffeId },
    /// Greets whoever listens at `port`, if that is `expect`.
    Call { port: u16, expect: SpiffeId },
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("unknown argument {0:?}")]
    Unknown(String),
    #[error("{0} needs a value")]
    Missing(&'static str),
    #[error("{flag}: {value:?} is no good value")]
    Value { flag: &'static str, value: String },
}

pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, ArgsError> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-h" | "--help" | "help") => return Ok(Command::Help),
            Some("--once") => options.once = true,
            Some("--bin") => options.bin = Some(value("--bin", &mut arguments)?.into()),
            Some("--state-dir") => {
                options.state_dir = Some(value("--state-dir", &mut arguments)?.into());
            }
            Some("workload") => return role(&mut arguments).map(Command::Workload),
            Some("guard") => {
                let parent = number("guard", &mut arguments)?;
                let program = value("guard", &mut arguments)?;
                return Ok(Command::Guard { parent, program, arguments: arguments.collect() });
            }
            _ => return Err(unknown(&argument)),
        }
    }
    Ok(Command::Demo(options))
}

fn role(arguments: &mut impl Iterator<Item = OsString>) -> Result<Role, ArgsError> {
    let name = value("workload", arguments)?;
    Ok(match name.to_str() {
        Some("x509") => Role::X509 { wait: true },
        Some("x509-now") => Role::X509 { wait: false },
        Some("watch") => Role::Watch,
        Some("jwt") => Role::Jwt { audience: text("jwt", arguments)? },
        Some("validate") => Role::Validate { audience: text("validate", arguments)? },
        Some("serve") => Role::Serve { allow: id("serve", arguments)? },
        Some("call") => {
            Role::Call { port: number("call", arguments)?, expect: id("call", arguments)? }
        }
        _ => return Err(unknown(&name)),
    })
}

fn value(
    flag: &'static str,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<OsString, ArgsError> {
    arguments.next().filter(|value| !value.is_empty()).ok_or(ArgsError::Missing(flag))
}

fn text(
    flag: &'static str,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<String, ArgsError> {
    value(flag, arguments)?
        .into_string()
        .map_err(|value| ArgsError::Value { flag, value: shown(&value) })
}

fn number<T: std::str::FromStr>(
    flag: &'static str,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<T, ArgsError> {
    let value = text(flag, arguments)?;
    value.parse().map_err(|_| ArgsError::Value { flag, value })
}

fn id(
    flag: &'static str,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<SpiffeId, ArgsError> {
    let value = text(flag, arguments)?;
    SpiffeId::parse(&value).map_err(|_| ArgsError::Value { flag, value })
}

fn unknown(argument: &OsString) -> ArgsError {
    ArgsError::Unknown(shown(argument))
}

fn shown(argument: &OsString) -> String {
    argument.to_string_lossy().chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_of_the_demonstration_are_optional() {
        assert_eq!(parsed(""), Ok(Command::Demo(Options::default())));
        let options = Options {
            bin: Some("target/debug".into()),
            state_dir: Some("/tmp/x".into()),
            once: true,
        };
        let line = "--bin target/debug --state-dir /tmp/x --once";
        assert_eq!(parsed(line), Ok(Command::Demo(options)));
    }

    #[test]
    fn a_mistake_is_named() {
        assert_eq!(parsed("--twice"), Err(ArgsError::Unknown("--twice".into())));
        assert_eq!(parsed("--bin"), Err(ArgsError::Missing("--bin")));
        assert_eq!(
            parsed("workload serve web"),
            Err(ArgsError::Value { flag: "serve", value: "web".into() })
        );
    }

    #[test]
    fn a_guard_hands_all_that_follows_to_the_program() {
        let expected = Command::Guard {
            parent: 7,
            program: "spire-agent".into(),
            arguments: vec!["run".into(), "--help".into()],
        };
        assert_eq!(parsed("guard 7 spire-agent run --help"), Ok(expected));
    }

    #[test]
    fn a_caller_is_told_port_and_name() {
        let expect = SpiffeId::parse("spiffe://example.org/db").unwrap();
        assert_eq!(
            parsed("workload call 4711 spiffe://example.org/db"),
            Ok(Command::Workload(Role::Call { port: 4711, expect }))
        );
        assert!(parsed("workload call 65536 spiffe://example.org/db").is_err());
    }
}
