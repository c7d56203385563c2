//! What guards the APIs, from the configuration's words to those of the APIs.

use steeple_config::{LimitBy, ServerConfig};
use steeple_net::proxy::Ranges;
use steeple_net::tls::TlsPolicy;
use steeple_policy::Engine;
use steeple_server_api::RateLimits;

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
