//! Registration entries: the rules that a draft must keep, and the use cases.

mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use steeple_spiffe::{IdError, TrustDomain};
use steeple_store::model::{
    Entry, EntryFilter, FederatesWithFilter, MatchBehavior, Page, SelectorFilter,
};
use steeple_store::{Store, StoreError};

pub(crate) use rules::selectors;
pub use rules::{EntryDraft, EntryFields, EntryRule, RawSelector};

use crate::access::{AgentCaller, Operator};
use crate::ids::{self, IdRule, RawId};
use crate::index::{Authorized, AuthorizedIndex};

/// Why a use case about entries failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum EntryError {
    #[error("missing ID")]
    MissingId,
    #[error("missing entry ID")]
    MissingEntryId,
    #[error("entry not found")]
    NotFound,
    #[error("failed to convert entry")]
    Rule(#[source] EntryRule),
    #[error("malformed parent ID filter")]
    ParentFilter(#[source] IdRule),
    #[error("malformed SPIFFE ID filter")]
    SpiffeIdFilter(#[source] IdRule),
    #[error("malformed selectors filter")]
    SelectorsFilter(#[source] EntryRule),
    #[error("malformed federates with filter")]
    FederatesWithFilter(#[source] FederatesWithRule),
    #[error("failed to create entry")]
    Create(#[source] StoreError),
    #[error("failed to update entry")]
    Update(#[source] StoreError),
    #[error("failed to delete entry")]
    Delete(#[source] StoreError),
    #[error("failed to fetch entry")]
    Fetch(#[source] StoreError),
    #[error("failed to list entries")]
    List(#[source] StoreError),
    #[error("failed to count entries")]
    Count(#[source] StoreError),
}

/// Why a filter by federated trust domains is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum FederatesWithRule {
    #[error("empty trust domain set")]
    Empty,
    #[error(transparent)]
    Malformed(#[from] IdError),
}

/// A filter as the wire carries it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in EntryFilter")]
pub struct RawEntryFilter {
    pub parent_id: Option<RawId>,
    pub spiffe_id: Option<RawId>,
    pub selectors: Option<(Vec<RawSelector>, MatchBehavior)>,
    pub federates_with: Option<(Vec<String>, MatchBehavior)>,
    pub hint: Option<String>,
    pub downstream: Option<bool>,
}

/// An entry that was asked for, and whether it had been there before.
#[derive(Clone, Debug)]
pub struct Created {
    /// The new entry, or the similar one.
    pub entry: Entry,
    /// A similar entry existed; nothing was created (ER-18).
    pub existed: bool,
}

/// The use cases about registration entries.
pub struct Entries {
    store: Arc<dyn Store>,
    index: AuthorizedIndex,
    trust_domain: TrustDomain,
}

impl Entries {
    /// Entries of one trust domain.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, index: AuthorizedIndex, trust_domain: TrustDomain) -> Self {
        Self { store, index, trust_domain }
    }

    /// Creates each draft on its own. When this returns, agents can see what was created.
    pub async fn create(
        &self,
        _operator: &Operator,
        drafts: Vec<EntryDraft>,
    ) -> Vec<Result<Created, EntryError>> {
        let mut good = Vec::with_capacity(drafts.len());
        let mut refused = Vec::with_capacity(drafts.len());
        for draft in drafts {
            refused.push(match draft.into_new(&self.trust_domain) {
                Ok(new) => {
                    good.push(new);
                    None
                }
                Err(rule) => Some(EntryError::Rule(rule)),
            });
        }
        let made = self.store.create_entries(good).await;
        self.index.refresh().await;
        in_place(refused, made, |made| match made {
            Ok((entry, existed)) => Ok(Created { entry, existed }),
            Err(error) => Err(EntryError::Create(error)),
        })
    }

    /// Overwrites the given fields of each entry that a draft names.
    pub async fn update(
        &self,
        _operator: &Operator,
        drafts: Vec<EntryDraft>,
        fields: &EntryFields,
    ) -> Vec<Result<Entry, EntryError>> {
        let mut good = Vec::with_capacity(drafts.len());
        let mut refused = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let entry_id = draft.entry_id.clone();
            refused.push(match draft.into_update(&self.trust_domain, fields) {
                Ok(update) => {
                    good.push((entry_id, update));
                    None
                }
                Err(rule) => Some(EntryError::Rule(rule)),
            });
        }
        let updated = self.store.update_entries(&good).await;
        self.index.refresh().await;
        in_place(refused, updated, |updated| updated.map_err(EntryError::Update))
    }

    /// Deletes each entry.
    pub async fn delete(
        &self,
        _operator: &Operator,
        entry_ids: &[String],
    ) -> Vec<Result<(), EntryError>> {
        let missing = |id: &String| id.is_empty().then_some(EntryError::MissingEntryId);
        let refused: Vec<_> = entry_ids.iter().map(missing).collect();
        let good: Vec<String> = entry_ids.iter().filter(|id| !id.is_empty()).cloned().collect();
        let deleted = self.store.delete_entries(&good).await;
        self.index.refresh().await;
        in_place(refused, deleted, |deleted| match deleted {
            Ok(_deleted) => Ok(()),
            Err(StoreError::NotFound(_)) => Err(EntryError::NotFound),
            Err(error) => Err(EntryError::Delete(error)),
        })
    }

    /// One entry.
    ///
    /// # Errors
    /// [`EntryError::NotFound`] among others.
    pub async fn get(&self, _operator: &Operator, entry_id: &str) -> Result<Entry, EntryError> {
        if entry_id.is_empty() {
            return Err(EntryError::MissingId);
        }
        let entry = self.store.fetch_entry(entry_id).await.map_err(EntryError::Fetch)?;
        entry.ok_or(EntryError::NotFound)
    }

    /// The entries that a filter lets through, and the token of the next page.
    ///
    /// # Errors
    /// For a malformed filter or page token, or the store's.
    pub async fn list(
        &self,
        _operator: &Operator,
        filter: &RawEntryFilter,
        page: Option<Page>,
    ) -> Result<(Vec<Entry>, Option<String>), EntryError> {
        let filter = self.filter(filter)?;
        self.store.list_entries(&filter, page.as_ref()).await.map_err(EntryError::List)
    }

    /// How many entries a filter lets through.
    ///
    /// # Errors
    /// For a malformed filter, or the store's.
    pub async fn count(
        &self,
        _operator: &Operator,
        filter: &RawEntryFilter,
    ) -> Result<u64, EntryError> {
        let filter = self.filter(filter)?;
        self.store.count_entries(&filter).await.map_err(EntryError::Count)
    }

    /// What the calling agent is authorised for, from memory.
    #[must_use]
    pub fn authorized(&self, agent: &AgentCaller, now: SystemTime) -> Authorized {
        self.index.authorized(agent.id(), now)
    }

    fn filter(&self, raw: &RawEntryFilter) -> Result<EntryFilter, EntryError> {
        let mut filter = EntryFilter {
            hint: raw.hint.clone().filter(|hint| !hint.is_empty()),
            downstream: raw.downstream,
            ..EntryFilter::default()
        };
        if raw.parent_id.is_some() {
            let parent = ids::member(&self.trust_domain, raw.parent_id.as_ref());
            filter.parent_id = Some(parent.map_err(EntryError::ParentFilter)?);
        }
        if raw.spiffe_id.is_some() {
            let subject = ids::workload(&self.trust_domain, raw.spiffe_id.as_ref());
            filter.spiffe_id = Some(subject.map_err(EntryError::SpiffeIdFilter)?);
        }
        if let Some((selectors, behavior)) = &raw.selectors {
            let selectors = rules::selectors(selectors)
                .and_then(|some| if some.is_empty() { Err(EntryRule::EmptySet) } else { Ok(some) })
                .map_err(EntryError::SelectorsFilter)?;
            filter.selectors = Some(SelectorFilter { selectors, behavior: *behavior });
        }
        if let Some((names, behavior)) = &raw.federates_with {
            let trust_domains = trust_domains(names).map_err(EntryError::FederatesWithFilter)?;
            filter.federates_with =
                Some(FederatesWithFilter { trust_domains, behavior: *behavior });
        }
        Ok(filter)
    }
}

/// The outcomes of what the datastore was asked for, among those of what it was not.
fn in_place<S, T>(
    refused: Vec<Option<EntryError>>,
    done: Vec<S>,
    told: impl Fn(S) -> Result<T, EntryError>,
) -> Vec<Result<T, EntryError>> {
    let mut done = done.into_iter();
    let lost = || StoreError::Internal("the datastore gave no answer".into());
    let outcomes = refused.into_iter().map(|refused| match refused {
        Some(error) => Err(error),
        None => done.next().map_or_else(|| Err(EntryError::Create(lost())), &told),
    });
    outcomes.collect()
}

fn trust_domains(names: &[String]) -> Result<Vec<TrustDomain>, FederatesWithRule> {
    if names.is_empty() {
        return Err(FederatesWithRule::Empty);
    }
    let mut seen = HashSet::new();
    let mut parsed = Vec::with_capacity(names.len());
    for name in names {
        let trust_domain = TrustDomain::from_name_or_id(name)?;
        if seen.insert(trust_domain.clone()) {
            parsed.push(trust_domain);
        }
    }
    Ok(parsed)
}
