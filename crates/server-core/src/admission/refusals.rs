//! The last attestations that failed, for operators to ask about.
//!
//! Bounded in all that a stranger has a say in, and without secrets: evidence is not kept, and a
//! join token that an ID or an error contains is cut out.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use steeple_spiffe::{Selector, SpiffeId};

/// How many are kept in all.
const MAX_KEPT: usize = 512;
/// How many of one address and attestor, so that one that floods leaves room for others.
const MAX_OF_ONE: usize = 8;
/// How many of one address, whatever attestors it names: a stranger can think of any number.
const MAX_OF_SITE: usize = 32;
/// How much of a text is kept, in characters.
const MAX_TEXT: usize = 300;
/// How many selectors are kept of one.
const MAX_SELECTORS: usize = 64;

const TOKEN_PREFIX: &str = "/spire/agent/join_token/";

/// An attestation that failed; several that failed alike are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it was last.
    pub at: SystemTime,
    /// When it was first.
    pub since: SystemTime,
    /// How often.
    pub count: u64,
    /// The address that asked; empty for the local socket.
    pub address: String,
    /// The attestor that was named.
    pub attestor: String,
    /// The ID that the agent would have got, where it came so far.
    pub agent_id: String,
    /// What it was told, and more where it was told less.
    pub reason: String,
    /// The rule of the policy that it did not satisfy; empty when it was something else.
    pub rule: String,
    /// The selectors that were proven, where it came so far.
    pub selectors: Vec<String>,
}

/// What is looked for; what is empty fits all.
#[derive(Clone, Debug, Default)]
pub struct RefusalFilter {
    /// The ID that the agent would have got.
    pub agent_id: String,
    /// The address that asked.
    pub address: String,
    /// The attestor that was named.
    pub attestor: String,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<Refusal>>);

/// What is to be kept of a refusal.
#[derive(Debug, Default)]
pub(crate) struct Told<'a> {
    pub(crate) address: &'a str,
    pub(crate) attestor: &'a str,
    pub(crate) agent: Option<&'a SpiffeId>,
    pub(crate) reason: String,
    pub(crate) rule: &'a str,
    pub(crate) selectors: &'a [Selector],
}

impl Refusals {
    pub(crate) fn note(&self, told: &Told<'_>, now: SystemTime) {
        let id = told.agent.map_or_else(String::new, |id| without_token(id.as_str()));
        let refusal = Refusal {
            at: now,
            since: now,
            count: 1,
            address: cut(told.address),
            attestor: cut(told.attestor),
            agent_id: id,
            reason: cut(&without_token(&told.reason)),
            rule: cut(told.rule),
            selectors: told
                .selectors
                .iter()
                .take(MAX_SELECTORS)
                .map(|selector| cut(&without_token(&selector.to_string())))
                .collect(),
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest is last.
        if let Some(at) = kept.iter().rposition(|old| old.is_like(&refusal)) {
            if let Some(old) = kept.remove(at) {
                let count = old.count.saturating_add(1);
                kept.push_back(Refusal { since: old.since, count, ..refusal });
            }
            return;
        }
        let own = site(&refusal.address);
        let of_site = |old: &Refusal| site(&old.address) == own;
        let of_one = |old: &Refusal| old.attestor == refusal.attestor && of_site(old);
        let full = |fits: &dyn Fn(&Refusal) -> bool, most| {
            let mut fitting = kept.iter().enumerate().filter(|(_, old)| fits(old));
            let oldest = fitting.next().map(|(at, _)| at);
            oldest.filter(|_| fitting.count() + 1 >= most)
        };
        let gives_way = full(&of_one, MAX_OF_ONE)
            .or_else(|| full(&of_site, MAX_OF_SITE))
            .or_else(|| full(&|_| true, MAX_KEPT));
        if let Some(at) = gives_way {
            kept.remove(at);
        }
        kept.push_back(refusal);
    }

    /// Those that fit, the last first.
    #[must_use]
    pub fn find(&self, filter: &RefusalFilter, limit: usize) -> Vec<Refusal> {
        let wanted = without_token(&filter.agent_id);
        let fits = |refusal: &&Refusal| {
            (wanted.is_empty() || refusal.agent_id == wanted)
                && (filter.address.is_empty() || refusal.address == filter.address)
                && (filter.attestor.is_empty() || refusal.attestor == filter.attestor)
        };
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().filter(fits).take(limit).cloned().collect()
    }
}

impl Refusal {
    fn is_like(&self, other: &Self) -> bool {
        (&self.address, &self.attestor, &self.agent_id, &self.reason, &self.selectors)
            == (&other.address, &other.attestor, &other.agent_id, &other.reason, &other.selectors)
    }
}

/// What counts as one address: of IPv6 the /64, all of which one host has.
fn site(address: &str) -> Result<IpAddr, &str> {
    match address.parse::<IpAddr>().map(|it| it.to_canonical()) {
        Ok(IpAddr::V6(it)) => Ok(Ipv6Addr::from_bits(it.to_bits() & (u128::MAX << 64)).into()),
        Ok(it) => Ok(it),
        Err(_) => Err(address),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A text without the join tokens that IDs in it end in: one that was not spent is a secret.
fn without_token(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(TOKEN_PREFIX) {
        out.push_str(before);
        out.push_str(TOKEN_PREFIX);
        out.push_str("***");
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
        rest = end.map_or("", |end| &after[end..]);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn told<'a>(address: &'a str, attestor: &'a str, reason: &str) -> Told<'a> {
        Told { address, attestor, reason: reason.to_owned(), ..Told::default() }
    }

    #[test]
    fn the_last_are_first_and_what_repeats_is_counted() {
        let refusals = Refusals::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        refusals.note(&told("10.0.0.1", "k", "one"), at(1));
        refusals.note(&told("10.0.0.2", "k", "two"), at(2));
        refusals.note(&told("10.0.0.1", "k", "one"), at(3));
        let found = refusals.find(&RefusalFilter::default(), 10);
        assert_eq!(found.iter().map(|it| it.reason.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((found[0].count, found[0].since, found[0].at), (2, at(1), at(3)));
        let by = RefusalFilter { address: "10.0.0.2".into(), ..RefusalFilter::default() };
        assert_eq!(refusals.find(&by, 10).len(), 1);
        let by = RefusalFilter { attestor: "other".into(), ..RefusalFilter::default() };
        assert!(refusals.find(&by, 10).is_empty());
    }

    #[test]
    fn one_that_floods_crowds_out_only_itself_and_all_is_bounded() {
        let refusals = Refusals::default();
        refusals.note(&told("10.0.0.1", "k", "of interest"), UNIX_EPOCH);
        for number in 0..10_000 {
            let reason = format!("{number}{}", "x".repeat(5000));
            refusals.note(&told("10.6.6.6", "k", &reason), UNIX_EPOCH);
        }
        let found = refusals.find(&RefusalFilter::default(), usize::MAX);
        assert_eq!(found.len(), 1 + MAX_OF_ONE);
        assert!(found.iter().any(|it| it.reason == "of interest"));
        assert!(found.iter().all(|it| it.reason.len() < 400));
        for number in 0..10_000 {
            refusals.note(&told(&format!("10.7.{number}"), "k", "many"), UNIX_EPOCH);
        }
        assert_eq!(refusals.find(&RefusalFilter::default(), usize::MAX).len(), MAX_KEPT);
    }

    #[test]
    fn one_that_names_attestors_of_its_own_or_has_a_network_crowds_out_only_itself() {
        let refusals = Refusals::default();
        refusals.note(&told("10.0.0.1", "k", "of interest"), UNIX_EPOCH);
        for number in 0..2_000 {
            refusals.note(&told("10.6.6.6", &format!("k{number}"), "none"), UNIX_EPOCH);
        }
        for number in 0..2_000 {
            let address = format!("2001:db8:0:1::{number:x}");
            refusals.note(&told(&address, &format!("k{number}"), "none"), UNIX_EPOCH);
        }
        let found = refusals.find(&RefusalFilter::default(), usize::MAX);
        assert_eq!(found.len(), 1 + 2 * MAX_OF_SITE);
        assert!(found.iter().any(|it| it.reason == "of interest"));
        let by = RefusalFilter { address: "2001:db8:0:1::7cf".into(), ..RefusalFilter::default() };
        assert_eq!(refusals.find(&by, 2)[0].attestor, "k1999", "the last is kept");
    }

    #[test]
    fn no_join_token_is_kept() {
        let refusals = Refusals::default();
        let id = SpiffeId::parse("spiffe://td/spire/agent/join_token/s3cr3t-t0ken").unwrap();
        let selectors = [Selector::new("spiffe_id", id.as_str())];
        let reason = format!("agent {id} (of {id}) is not let in");
        let told = Told {
            agent: Some(&id),
            reason,
            selectors: &selectors,
            ..told("10.0.0.1", "join_token", "")
        };
        refusals.note(&told, UNIX_EPOCH);
        let found = refusals.find(&RefusalFilter::default(), 1);
        assert!(!format!("{found:?}").contains("s3cr3t"), "{found:?}");
        assert_eq!(found[0].agent_id, "spiffe://td/spire/agent/join_token/***");
        assert!(found[0].reason.ends_with(") is not let in"), "{}", found[0].reason);
        let by = RefusalFilter { agent_id: id.to_string(), ..RefusalFilter::default() };
        assert_eq!(refusals.find(&by, 1).len(), 1);
    }
}
