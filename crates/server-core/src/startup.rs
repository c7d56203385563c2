//! Checks before anything is served.

use steeple_spiffe::TrustDomain;
use steeple_store::model::{EntryFilter, NodeFilter, Page};
use steeple_store::{Store, StoreError};

/// Why the server does not start on this database.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum StartupError {
    #[error(
        "a registration entry with trust domain '{found}' has been detected, which does not match \
         the configured trust domain of '{configured}'. If you want to change the trust domain, \
         please delete all existing registration entries"
    )]
    ForeignEntry { found: String, configured: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Compares the first entry and the first agent with the trust domain: an entry of another one
/// stops the start, an agent of another one is only told of (SB-10, SB-11).
///
/// # Errors
/// [`StartupError`].
pub async fn check_trust_domain(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<(), StartupError> {
    let first = Page { token: None, size: 1 };
    let (entries, _) = store.list_entries(&EntryFilter::default(), Some(&first)).await?;
    if let Some(entry) = entries.first().filter(|entry| !entry.spiffe_id.is_member_of(trust_domain))
    {
        return Err(StartupError::ForeignEntry {
            found: entry.spiffe_id.trust_domain_name().to_owned(),
            configured: trust_domain.as_str().to_owned(),
        });
    }
    let (nodes, _) = store.list_nodes(&NodeFilter::default(), Some(&first)).await?;
    if let Some(node) = nodes.first().filter(|node| !node.spiffe_id.is_member_of(trust_domain)) {
        tracing::warn!(
            "An attested node with trust domain '{}' has been detected, which does not match the \
             configured trust domain of '{trust_domain}'. Agents may need to be reconfigured to \
             use new trust domain",
            node.spiffe_id.trust_domain_name(),
        );
    }
    Ok(())
}
