//! What every store must do, as claims to run against an empty one.
//!
//! [`store_contract!`](crate::store_contract) makes a test of each claim. A claim gets a store of
//! its own, and its name says what it claims.
#![expect(clippy::unwrap_used, reason = "these are tests")]
#![allow(missing_docs, reason = "the name of each claim says it all")]

pub mod bundles;
pub mod entries;
pub mod federation;
pub mod feed;
pub mod join_tokens;
pub mod journals;
pub mod lists;
pub mod nodes;
pub mod reusable_tokens;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

use crate::{AttestedNode, NewEntry, Revision, Since, Store};

/// Makes a `#[tokio::test]` of every claim. Takes the path of an async function that answers a
/// guard, which is kept until the claim is through, and an empty `Arc<dyn Store>`; with
/// `optional` behind it, one that answers `None` where there is no such database.
#[macro_export]
macro_rules! store_contract {
    ($fresh:path) => {
        $crate::store_contract!($fresh, always);
    };
    ($fresh:path, $there:ident) => {
        $crate::store_contract!(@claims $fresh, $there, bundles: [
            a_bundle_is_kept_and_answered_whole,
            appending_adds_only_what_is_new_and_counts,
            appending_does_not_clean_a_tainted_authority,
            updating_overwrites_only_what_the_mask_names,
            pruning_removes_what_expired_and_never_everything,
            an_x509_authority_is_tainted_before_it_is_revoked,
            a_jwt_authority_is_tainted_before_it_is_revoked,
            a_bundle_in_use_is_deleted_only_as_told,
            bundles_come_in_pages,
        ]);
        $crate::store_contract!(@claims $fresh, $there, entries: [
            an_entry_is_kept_and_answered_whole,
            a_similar_entry_is_found_whatever_the_order_of_its_selectors,
            a_taken_entry_id_is_refused_in_spires_words,
            a_repeated_selector_is_refused_and_leaves_nothing_behind,
            federation_needs_a_bundle_and_leaves_nothing_behind,
            an_entry_that_breaks_a_rule_is_refused_in_spires_words,
            an_update_changes_what_it_names_and_counts,
            an_update_may_not_break_a_rule,
            deleting_answers_what_was_there,
            only_expired_entries_are_pruned,
            many_entries_are_fetched_at_once,
            of_many_similar_entries_at_once_one_is_made,
            an_entry_may_have_many_selectors,
            many_entries_are_made_as_one_after_the_other,
            a_large_batch_is_made_in_its_order,
            many_entries_are_changed_as_one_after_the_other,
            many_entries_are_deleted_as_one_after_the_other,
            of_many_writers_at_once_each_gets_its_own_answer,
        ]);
        $crate::store_contract!(@claims $fresh, $there, lists: [
            entries_are_filtered_by_column,
            entries_are_filtered_by_selectors_in_all_four_ways,
            entries_are_filtered_by_federation_in_all_four_ways,
            filters_are_joined_by_and,
            pages_are_full_and_end_with_an_empty_one,
            bad_pages_are_refused,
            a_count_is_the_length_of_the_list,
            a_filter_may_be_large_but_not_huge,
        ]);
        $crate::store_contract!(@claims $fresh, $there, nodes: [
            an_agent_is_kept_and_answered_whole,
            attesting_again_overwrites_but_keeps_the_version,
            a_first_attestation_is_recorded_once,
            of_a_hundred_first_attestations_one_is_recorded,
            a_banned_agent_cannot_attest_and_evicting_lets_it,
            many_who_attest_at_once_are_recorded_as_one_after_the_other,
            a_new_serial_number_is_promoted_on_first_use,
            a_renewal_keeps_the_next_serial_number,
            an_update_changes_only_what_it_names,
            agents_are_filtered,
            agents_are_filtered_by_selectors_in_all_four_ways,
            pruning_spares_the_banned_and_those_that_cannot_attest_again,
            pruning_keeps_to_its_batch,
            evicting_takes_the_alias_entry_and_no_other,
        ]);
        $crate::store_contract!(@claims $fresh, $there, join_tokens: [
            a_join_token_is_kept_once,
            a_join_token_attests_once,
            of_a_hundred_attempts_one_wins,
            of_many_who_join_at_once_each_gets_its_own_answer,
            what_a_token_would_make_is_known_before,
            an_expired_join_token_is_spent,
            a_join_token_of_a_banned_agent_is_spent,
            a_join_token_is_in_no_error,
            an_alias_entry_comes_with_its_token_or_neither,
            expired_join_tokens_are_pruned,
        ]);
        $crate::store_contract!(@claims $fresh, $there, reusable_tokens: [
            a_reusable_token_is_kept_until_it_is_deleted,
            a_token_that_nobody_could_use_is_refused,
            a_node_that_joined_comes_back_and_is_counted_once,
            of_a_hundred_nodes_as_many_join_as_may,
        ]);
        $crate::store_contract!(@claims $fresh, $there, journals: [
            a_journal_is_found_by_its_active_authority,
            a_journal_is_pruned_when_everything_in_it_is_over,
            an_unreadable_journal_stops_pruning,
        ]);
        $crate::store_contract!(@claims $fresh, $there, federation: [
            a_relationship_is_kept_with_its_bundle,
            a_relationship_changes_as_told,
            a_relationship_that_makes_no_sense_is_refused,
            relationships_come_in_pages,
        ]);
        $crate::store_contract!(@claims $fresh, $there, feed: [
            a_snapshot_has_everything,
            every_change_of_an_entry_is_told,
            every_change_of_an_agent_is_told,
            cascades_are_told_too,
            a_refused_change_is_not_told,
            a_change_is_told_once_with_what_is_true_now,
            events_are_pruned_without_harm_to_those_who_read_them,
            those_who_did_not_read_pruned_events_are_told_to_start_afresh,
            a_revision_of_another_database_is_recognised,
            local_commits_wake_readers,
            nothing_is_skipped_under_concurrent_writers,
        ]);
    };
    (@claims $fresh:path, $there:ident, $module:ident: [$($claim:ident),* $(,)?]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let fresh = $crate::store_contract!(@there $there, $fresh().await);
                    let Some((guard, store)) = fresh else { return };
                    $crate::contract::$module::$claim(::std::sync::Arc::clone(&store)).await;
                    store.close().await;
                    drop(guard);
                }
            )*
        }
    };
    (@there always, $fresh:expr) => { ::std::option::Option::Some($fresh) };
    (@there optional, $fresh:expr) => { $fresh };
}

type AnyStore = Arc<dyn Store>;

fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// `spiffe://example.org` + path.
fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&trust_domain("example.org"), path).unwrap()
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
}

/// An entry that grants `path` below `/agent` to what shows `texts`.
fn new_entry(path: &str, texts: &[&str]) -> NewEntry {
    NewEntry::new(id(path), id("/agent"), selectors(texts))
}

fn node(path: &str, texts: &[&str]) -> AttestedNode {
    AttestedNode {
        spiffe_id: id(path),
        attestation_type: "test".into(),
        serial_number: "1".into(),
        expires_at: 2_000_000_000,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: true,
        selectors: selectors(texts),
        agent_version: String::new(),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The entry ids and agent ids that were touched since, and the revision after.
async fn touched(store: &AnyStore, after: &Revision) -> (Vec<String>, Vec<String>, Revision) {
    match store.changes_since(after).await.unwrap() {
        Since::Changes(changes) => (
            changes.entries.into_iter().map(|change| change.entry_id).collect(),
            changes.nodes.into_iter().map(|change| change.spiffe_id.path().to_owned()).collect(),
            changes.revision,
        ),
        Since::ResnapshotNeeded(reason) => panic!("no changes but {reason}"),
    }
}
