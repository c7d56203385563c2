//! A server of its own for a fleet, and what agents need to know of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use steeple_net::tls::Identity;
use steeple_pki::Certificate;

use super::link::{Link, Traffic};
use super::tls::Trust;
use crate::args::Bin;
use crate::check::Answers;
use crate::error::{Error, Result};
use crate::server::{Options, Server};

/// A running server.
pub struct Site {
    pub server: Server,
    pub front: Arc<Front>,
}

/// What agents know of a server, before and after it is started again.
pub struct Front {
    /// What its answers are held against.
    pub answers: Answers,
    /// What the agents' connections come to.
    pub traffic: Arc<Traffic>,
    trust: Trust,
    address: SocketAddr,
}

impl Site {
    /// Starts a server and waits for its first answer.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn start(bin: &Bin, options: &Options) -> Result<Self> {
        let server = Server::start(bin, options).await?;
        let authorities = server.bundle.x509_authorities.iter();
        let authorities = authorities.map(|it| Certificate::from_der(it.asn1.clone()));
        let authorities = authorities.collect::<std::result::Result<Vec<_>, _>>();
        let authorities = authorities
            .map_err(|error| Error::Wrong { call: "GetBundle", what: error.to_string() })?;
        let front = Front {
            answers: server.answers()?,
            traffic: Arc::default(),
            trust: Trust::new(authorities)?,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)),
        };
        Ok(Self { server, front: Arc::new(front) })
    }
}

impl Front {
    /// The connection of agent `number`, which shows `identity` or nothing.
    pub fn link(&self, number: usize, identity: Option<&Identity>) -> Link {
        let tls = self.trust.client(identity);
        Link::new(own_address(number), self.address, tls, Arc::clone(&self.traffic))
    }
}

/// An address for each agent: 127.1.0.1 and on. Of each 256, six are left out, among them those
/// that look like networks and broadcasts.
fn own_address(number: usize) -> Ipv4Addr {
    let (hundreds, rest) = (number as u32 / 250, number as u32 % 250);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + hundreds * 256 + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_agents_share_an_address() {
        let mut addresses: Vec<Ipv4Addr> = (0..20_000).map(own_address).collect();
        addresses.dedup();
        assert_eq!(addresses.len(), 20_000);
        assert_eq!(addresses[0], Ipv4Addr::new(127, 1, 0, 1));
        let last = [Ipv4Addr::new(127, 1, 0, 250), Ipv4Addr::new(127, 1, 1, 1)];
        assert_eq!(addresses[249..251], last);
    }
}
