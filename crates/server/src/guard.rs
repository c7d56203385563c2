//! What guards the APIs, from the configuration's words to those of the APIs.

use steeple_config::{LimitBy, OverloadClass, ServerConfig};
use steeple_net::proxy::Ranges;
use steeple_net::serve::Limits;
use steeple_net::tls::{TlsLimits, TlsPolicy};
use steeple_policy::Engine;
use steeple_server_api::{ClassLimits, LoadLimits, RateLimits};

use crate::error::ServerError;

/// How much each caller may ask for.
pub(crate) fn rate_limits(config: &ServerConfig) -> RateLimits {
    let rates = &config.rate_limit;
    RateLimits {
        attestation: rates.attestation,
        signing: rates.signing,
        publish: rates.publish,
        post_status: rates.post_status,
        admin: rates.admin,
        bundle: rates.bundle,
        sync: rates.sync,
        by: match rates.by {
            LimitBy::Ip => steeple_server_api::LimitBy::Address,
            LimitBy::SpiffeId => steeple_server_api::LimitBy::SpiffeId,
        },
    }
}

/// How much is worked on at once: what this machine suggests, where nothing is set.
pub(crate) fn load_limits(config: &ServerConfig) -> LoadLimits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let usual = LoadLimits::for_cores(cores);
    let set = &config.experimental.overload;
    let of = |value: Option<u32>, usual: usize| value.map_or(usual, |it| it as usize);
    let mib = |value: Option<u32>, usual: usize| value.map_or(usual, |it| (it as usize) << 20);
    let class = |set: &OverloadClass, usual: ClassLimits| ClassLimits {
        at_once: of(set.at_once, usual.at_once),
        waiting: of(set.waiting, usual.waiting),
        longest_wait: set.longest_wait.unwrap_or(usual.longest_wait),
    };
    LoadLimits {
        at_once: of(set.at_once, usual.at_once),
        attest: class(&set.attest, usual.attest),
        renew: class(&set.renew, usual.renew),
        sign: class(&set.sign, usual.sign),
        sync: class(&set.sync, usual.sync),
        admin: class(&set.admin, usual.admin),
        request_bytes: mib(set.request_memory_mib, usual.request_bytes),
        request_bytes_per_address: mib(
            set.request_memory_per_address_mib,
            usual.request_bytes_per_address,
        ),
    }
}

/// What connections over TCP and their handshakes may cost.
pub(crate) fn connection_limits(config: &ServerConfig) -> (Limits, TlsLimits) {
    let set = &config.experimental.overload;
    let (usual, handshakes) = (Limits::tcp(), TlsLimits::default());
    let of = |value: Option<u32>, usual: usize| value.map_or(usual, |it| it as usize);
    let max_connections = of(set.connections, usual.max_connections);
    let tls = TlsLimits {
        handshakes: of(set.handshakes, handshakes.handshakes),
        handshakes_per_address: of(set.handshakes_per_address, handshakes.handshakes_per_address),
        connections_per_address: of(set.connections_per_address, max_connections.div_ceil(2)),
        ..handshakes
    };
    (Limits { max_connections, ..usual }, tls)
}

/// An operator's own authorisation policy.
pub(crate) fn policy(config: &ServerConfig) -> Result<Option<Engine>, ServerError> {
    let Some(files) = &config.experimental.policy else { return Ok(None) };
    let engine = Engine::load(&files.rego, files.data.as_deref()).map_err(ServerError::Policy)?;
    Ok(Some(engine))
}

/// Whose PROXY protocol headers count.
pub(crate) fn proxies(config: &ServerConfig) -> Ranges {
    let ranges = &config.proxy_protocol_trusted_cidrs;
    if !ranges.is_empty() {
        let texts: Vec<_> =
            ranges.iter().map(|range| format!("{}/{}", range.address, range.bits)).collect();
        tracing::info!(
            subsystem_name = "endpoints",
            trusted_cidrs = format!("[{}]", texts.join(" ")),
            "PROXY protocol enabled on TCP listener"
        );
    }
    Ranges::new(ranges.iter().map(|range| (range.address, range.bits)))
}

/// Which TLS handshakes to take part in.
pub(crate) fn tls(config: &ServerConfig) -> TlsPolicy {
    let require_pq_kem = config.experimental.require_pq_kem;
    if require_pq_kem {
        tracing::debug!(
            subsystem_name = "tlspolicy",
            "Experimental option 'require_pq_kem' is enabled; all TLS connections will require use \
             of a post-quantum safe KEM"
        );
    }
    TlsPolicy { require_pq_kem }
}
