//! Where a daemon listens, as Docker's own clients write it: `unix:///var/run/docker.sock`.

use std::path::PathBuf;

use super::container::shorten;

/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 108;

/// The host that local requests name; nobody looks it up.
const LOCAL: &str = "api.moby.localhost";

/// A daemon's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As configured.
    pub(super) host: String,
    pub(super) address: Address,
    /// What stands before every path.
    pub(super) base: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("unable to parse docker host `{}`", shorten(.0))]
    Malformed(String),
    #[error("unix socket path {:?} is too long", shorten(.0))]
    TooLong(String),
    #[error("protocol not available")]
    Protocol,
}

impl Endpoint {
    pub(super) fn parse(host: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(host.to_owned());
        let (protocol, address) = host.split_once("://").ok_or_else(malformed)?;
        if address.is_empty() {
            return Err(malformed());
        }
        let (address, base) = match protocol {
            "unix" if address.len() > MAX_SOCKET_PATH => {
                return Err(EndpointError::TooLong(address.to_owned()));
            }
            "unix" => (Address::Unix(PathBuf::from(address)), ""),
            "npipe" => return Err(EndpointError::Protocol),
            _ => {
                let (authority, base) = match address.find('/') {
                    Some(at) if protocol == "tcp" => address.split_at(at),
                    Some(_) => return Err(malformed()),
                    None => (address, ""),
                };
                let port = authority.rsplit_once(':').map(|(_, port)| port);
                let explicit = port.is_some_and(|port| port.parse::<u16>().is_ok());
                let authority = match explicit {
                    true => authority.to_owned(),
                    false => format!("{authority}:80"),
                };
                (Address::Tcp(authority), base.trim_end_matches('/'))
            }
        };
        Ok(Self { host: host.to_owned(), address, base: base.to_owned() })
    }

    /// What a request names as the host.
    pub(super) fn authority(&self) -> &str {
        match &self.address {
            Address::Unix(_) => LOCAL,
            Address::Tcp(authority) => authority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_dockers_clients_read_them() {
        let parse = |host: &str| {
            let endpoint = Endpoint::parse(host).unwrap();
            (endpoint.address, endpoint.base)
        };
        let unix = |path: &str| Address::Unix(PathBuf::from(path));
        let tcp = |authority: &str| Address::Tcp(authority.to_owned());
        for (host, address, base) in [
            ("unix:///var/run/docker.sock", unix("/var/run/docker.sock"), ""),
            ("unix://relative.sock", unix("relative.sock"), ""),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1:2375"), ""),
            ("tcp://[::1]:2375/sub/", tcp("[::1]:2375"), "/sub"),
            ("tcp://docker", tcp("docker:80"), ""),
            ("http://docker:2375", tcp("docker:2375"), ""),
        ] {
            assert_eq!(parse(host), (address, base.to_owned()), "{host}");
        }
        let text = |host: &str| Endpoint::parse(host).unwrap_err().to_string();
        assert_eq!(text("/var/run/x"), "unable to parse docker host `/var/run/x`");
        assert_eq!(text("unix://"), "unable to parse docker host `unix://`");
        assert_eq!(text("npipe:////./pipe/docker"), "protocol not available");
        assert!(text(&format!("unix:///{}", "x".repeat(200))).ends_with("is too long"));
    }
}
