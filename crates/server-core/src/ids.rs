//! Which SPIFFE IDs may stand where: a workload's, an agent's, a parent's.
//!
//! The three checks are facts of the trust domain's layout: `/spire` belongs
//! to the deployment itself, agents live under `/spire/agent/`, and nothing
//! registered or minted may claim the bare trust domain.

use steeple_spiffe::{IdError, SpiffeId, TrustDomain};

use crate::text::Quoted;

/// A SPIFFE ID as the wire carries it: not yet looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawId {
    /// A trust domain name, or an ID whose trust domain is meant.
    pub trust_domain: String,
    /// Empty, or a path with its leading slash.
    pub path: String,
}

/// Why an ID may not be used in a place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdRule {
    /// The message had no ID at all.
    #[error("request must specify SPIFFE ID")]
    Missing,
    /// Not a SPIFFE ID.
    #[error(transparent)]
    Malformed(#[from] IdError),
    /// A member of another trust domain.
    #[error("{id} is not a member of trust domain {trust_domain:?}")]
    Foreign {
        /// The offending ID.
        id: Quoted,
        /// The trust domain that is served here.
        trust_domain: String,
    },
    /// The bare trust domain where a member is wanted.
    #[error("{id} is not {role} trust domain {trust_domain:?}; path is empty")]
    EmptyPath {
        /// The offending ID.
        id: Quoted,
        /// "a member of", "a workload in" or "an agent in".
        role: &'static str,
        /// The trust domain that is served here.
        trust_domain: String,
    },
    /// A path under `/spire` where a workload is wanted.
    #[error(
        "{id} is not a workload in trust domain {trust_domain:?}; path is in the reserved namespace"
    )]
    Reserved {
        /// The offending ID.
        id: Quoted,
        /// The trust domain that is served here.
        trust_domain: String,
    },
    /// A path outside `/spire/agent/` where an agent is wanted.
    #[error(
        "{id} is not an agent in trust domain {trust_domain:?}; path is not in the agent namespace"
    )]
    NotAgent {
        /// The offending ID.
        id: Quoted,
        /// The trust domain that is served here.
        trust_domain: String,
    },
}

/// Parses an ID off the wire, in whatever trust domain it is.
///
/// # Errors
/// [`IdRule::Missing`] or [`IdRule::Malformed`].
pub fn parse(raw: Option<&RawId>) -> Result<SpiffeId, IdRule> {
    let raw = raw.ok_or(IdRule::Missing)?;
    let trust_domain = TrustDomain::from_name_or_id(&raw.trust_domain)?;
    Ok(SpiffeId::from_path(&trust_domain, &raw.path)?)
}

/// Parses the ID of some member of `trust_domain`: agent, server or workload.
///
/// # Errors
/// Any [`IdRule`] but the ones of agents and workloads.
pub fn member(trust_domain: &TrustDomain, raw: Option<&RawId>) -> Result<SpiffeId, IdRule> {
    let id = parse(raw)?;
    check_member(trust_domain, &id, "a member of")?;
    Ok(id)
}

/// Parses the ID of a workload of `trust_domain`.
///
/// # Errors
/// Any [`IdRule`] but the one of agents.
pub fn workload(trust_domain: &TrustDomain, raw: Option<&RawId>) -> Result<SpiffeId, IdRule> {
    let id = parse(raw)?;
    check_workload(trust_domain, &id)?;
    Ok(id)
}

/// Checks that a parsed ID may name a workload of `trust_domain`.
///
/// # Errors
/// [`IdRule::Foreign`], [`IdRule::EmptyPath`] or [`IdRule::Reserved`].
pub fn check_workload(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), IdRule> {
    check_member(trust_domain, id, "a workload in")?;
    if id.is_reserved() {
        return Err(IdRule::Reserved {
            id: Quoted::new(id.as_str()),
            trust_domain: trust_domain.as_str().to_owned(),
        });
    }
    Ok(())
}

/// Parses the ID of an agent of `trust_domain`.
///
/// # Errors
/// Any [`IdRule`] but the one of workloads.
pub fn agent(trust_domain: &TrustDomain, raw: Option<&RawId>) -> Result<SpiffeId, IdRule> {
    let id = parse(raw)?;
    check_member(trust_domain, &id, "an agent in")?;
    if !id.is_agent() {
        return Err(IdRule::NotAgent {
            id: Quoted::new(id.as_str()),
            trust_domain: trust_domain.as_str().to_owned(),
        });
    }
    Ok(id)
}

fn check_member(
    trust_domain: &TrustDomain,
    id: &SpiffeId,
    role: &'static str,
) -> Result<(), IdRule> {
    if !id.is_member_of(trust_domain) {
        return Err(IdRule::Foreign {
            id: Quoted::new(id.as_str()),
            trust_domain: trust_domain.as_str().to_owned(),
        });
    }
    if id.path().is_empty() {
        return Err(IdRule::EmptyPath {
            id: Quoted::new(id.as_str()),
            role,
            trust_domain: trust_domain.as_str().to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(trust_domain: &str, path: &str) -> RawId {
        RawId { trust_domain: trust_domain.to_owned(), path: path.to_owned() }
    }

    fn home() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn workload_error(trust_domain: &str, path: &str) -> String {
        workload(&home(), Some(&raw(trust_domain, path))).unwrap_err().to_string()
    }

    #[test]
    fn a_workload_is_a_member_with_a_path_outside_the_reserved_namespace() {
        assert!(workload(&home(), Some(&raw("example.org", "/web"))).is_ok());
        assert!(workload(&home(), Some(&raw("example.org", "/spirehead"))).is_ok());
        assert_eq!(workload(&home(), None), Err(IdRule::Missing));
        assert_eq!(
            workload_error("other.org", "/web"),
            r#""spiffe://other.org/web" is not a member of trust domain "example.org""#
        );
        assert_eq!(
            workload_error("example.org", ""),
            r#""spiffe://example.org" is not a workload in trust domain "example.org"; path is empty"#
        );
        assert_eq!(
            workload_error("example.org", "/spire/agent/x"),
            "\"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \
             \"example.org\"; path is in the reserved namespace"
        );
        assert_eq!(workload_error("example.org", "/a/"), "path cannot have a trailing slash");
        assert_eq!(workload_error("", "/a"), "trust domain is missing");
    }

    #[test]
    fn an_agent_lives_in_the_agent_namespace() {
        let agent_error =
            |path: &str| agent(&home(), Some(&raw("example.org", path))).unwrap_err().to_string();
        assert!(agent(&home(), Some(&raw("example.org", "/spire/agent/join_token/t"))).is_ok());
        assert_eq!(
            agent_error(""),
            r#""spiffe://example.org" is not an agent in trust domain "example.org"; path is empty"#
        );
        assert_eq!(
            agent_error("/web"),
            "\"spiffe://example.org/web\" is not an agent in trust domain \"example.org\"; path \
             is not in the agent namespace"
        );
    }

    #[test]
    fn a_parent_may_be_the_server_an_agent_or_a_workload_but_not_the_trust_domain() {
        for path in ["/spire/server", "/spire/agent/x/y", "/web"] {
            assert!(member(&home(), Some(&raw("example.org", path))).is_ok(), "{path}");
        }
        assert_eq!(
            member(&home(), Some(&raw("example.org", ""))).unwrap_err().to_string(),
            r#""spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
        );
    }

    #[test]
    fn a_long_id_is_not_echoed_whole() {
        let text = workload_error("other.org", &format!("/{}", "x".repeat(1500)));
        assert!(text.len() < 250, "{text}");
    }
}
