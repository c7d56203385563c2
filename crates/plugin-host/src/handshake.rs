//! The one line by which a plugin says where it listens:
//! `<core version>|<version>|<network>|<address>|<protocol>|<certificate>|<multiplexing>`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::LaunchError;

/// How much of a wrong line an error repeats.
const MAX_ECHO: usize = 200;

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// On the loopback interface.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix {}", path.display()),
            Self::Tcp(address) => write!(f, "tcp {address}"),
        }
    }
}

/// Reads the line; `note` says what may be wrong with a program that wrote another one.
pub(crate) fn parse(line: &str, note: impl FnOnce() -> String) -> Result<Address, LaunchError> {
    let line = line.trim();
    let parts: Vec<&str> = line.split('|').collect();
    let [core, version, network, address, ..] = parts[..] else {
        return Err(LaunchError::Unrecognized { line: shorten(line), note: note() });
    };
    match core.parse::<i64>() {
        Ok(1) => {}
        Ok(_) => return Err(LaunchError::CoreVersion(shorten(core))),
        Err(_) => return Err(LaunchError::CoreNotNumber(shorten(core))),
    }
    match version.parse::<i64>() {
        Ok(1) => {}
        Ok(other) => return Err(LaunchError::Version(other)),
        Err(_) => return Err(LaunchError::VersionNotNumber(shorten(version))),
    }
    let unknown = || LaunchError::Network(shorten(address));
    let address = match network {
        "unix" if !address.is_empty() => Address::Unix(PathBuf::from(address)),
        // Somebody else's machine is no plugin of ours.
        "tcp" => match address.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Address::Tcp(address),
            _ => return Err(unknown()),
        },
        _ => return Err(unknown()),
    };
    match parts.get(4).copied().unwrap_or("netrpc") {
        "grpc" => Ok(address),
        other => Err(LaunchError::Protocol(shorten(other))),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Address, String> {
        parse(line, || "\nnote".into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_line_of_a_go_plugin_is_read() {
        let unix = Ok(Address::Unix("/tmp/plugin1".into()));
        assert_eq!(read("1|1|unix|/tmp/plugin1|grpc|\n"), unix);
        assert_eq!(read("1|1|unix|/tmp/plugin1|grpc"), unix);
        assert_eq!(read("1|1|unix|/tmp/plugin1|grpc||true"), unix);
        let tcp = Ok(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1234))));
        assert_eq!(read("1|1|tcp|127.0.0.1:1234|grpc"), tcp);
    }

    #[test]
    fn other_lines_are_refused_in_the_words_of_go_plugin() {
        let refused = |line: &str, expected: &str| {
            let text = read(line).unwrap_err();
            assert!(text.starts_with(expected), "{line}: {text}");
        };
        refused("hello", "Unrecognized remote plugin message: hello\nnote");
        refused("", "Unrecognized remote plugin message: ");
        refused("2|1|unix|/x|grpc", "incompatible core API version with plugin. Plugin version: 2");
        refused("x|1|unix|/x|grpc", "error parsing core protocol version: ");
        refused(
            "1|7|unix|/x|grpc",
            "incompatible API version with plugin. Plugin version: 7, Client versions: [1]",
        );
        refused("1|y|unix|/x|grpc", "Error parsing protocol version \"y\"");
        refused("1|1|pipe|/x|grpc", "unknown address type: /x");
        refused("1|1|tcp|192.0.2.1:80|grpc", "unknown address type: 192.0.2.1:80");
        refused("1|1|unix||grpc", "unknown address type: ");
        refused("1|1|unix|/x|netrpc", "unsupported plugin protocol \"netrpc\". Supported: [grpc]");
        refused("1|1|unix|/x", "unsupported plugin protocol \"netrpc\". Supported: [grpc]");
    }

    #[test]
    fn a_long_line_is_not_repeated_at_length() {
        let text = read(&"x".repeat(10_000)).unwrap_err();
        assert!(text.len() < 300);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_program_prints_is_read_or_refused_in_few_words(
            line in proptest::sample::select(vec!["", "1|1|unix|/x|grpc", "1|1|tcp|127.0.0.1:1|grpc"]),
            more in "[ -~|\\PC]{0,600}",
            at in 0_usize..30,
        ) {
            // Errors repeat up to MAX_ECHO characters, twice, each as an escape of ten.
            let more = more.repeat(20);
            let line = format!("{}{more}{}", &line[..at.min(line.len())], &line[at.min(line.len())..]);
            match read(&line) {
                Ok(Address::Tcp(address)) => proptest::prop_assert!(address.ip().is_loopback()),
                Ok(Address::Unix(path)) => proptest::prop_assert!(!path.as_os_str().is_empty()),
                Err(text) => proptest::prop_assert!(text.chars().count() < 25 * MAX_ECHO, "{text}"),
            }
        }
    }
}
