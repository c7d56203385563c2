//! Sets of selectors, sorted once so that every later question is a merge.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use steeple_spiffe::Selector;

/// A sorted set of selectors without duplicates; cheap to clone, to hash and to tell from
/// another: delegates name sets of a hundred thousand, and each is filed under all its selectors.
#[derive(Clone, Debug)]
pub struct SelectorSet {
    selectors: Arc<[Selector]>,
    hash: u64,
}

impl SelectorSet {
    /// Sorts, drops duplicates.
    pub fn new(mut selectors: Vec<Selector>) -> Self {
        selectors.sort_unstable();
        selectors.dedup();
        // Keyed: whoever chooses selectors must not choose collisions.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self { hash: KEY.hash_one(&selectors), selectors: selectors.into() }
    }

    /// Whether every selector of `other` is in this set.
    pub fn contains_all(&self, other: &SelectorSet) -> bool {
        if other.len() > self.len() {
            return false;
        }
        let mut mine = self.iter();
        other.iter().all(|wanted| mine.by_ref().find(|have| *have >= wanted) == Some(wanted))
    }

    /// Whether this selector is in the set.
    pub fn has(&self, selector: &Selector) -> bool {
        self.selectors.binary_search(selector).is_ok()
    }

    /// The selectors in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.selectors.iter()
    }

    /// How many selectors there are.
    pub fn len(&self) -> usize {
        self.selectors.len()
    }

    /// Whether nothing is known about the caller.
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// The selectors that a log may show: those equal to one of `prefixes`, or
    /// that continue one after a colon (`log_selectors`), joined by commas.
    pub fn loggable(&self, prefixes: &[String]) -> Option<String> {
        let shown: Vec<String> = self
            .iter()
            .map(ToString::to_string)
            .filter(|selector| is_loggable(selector, prefixes))
            .collect();
        (!shown.is_empty()).then(|| shown.join(","))
    }
}

/// Whether a log may show a selector, which is written out here: it is one of
/// `prefixes`, or continues one after a colon.
pub fn is_loggable(selector: &str, prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| {
        selector
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    })
}

impl PartialEq for SelectorSet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.selectors, &other.selectors)
            || (self.hash == other.hash && self.selectors == other.selectors)
    }
}

impl Eq for SelectorSet {}

impl Hash for SelectorSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialOrd for SelectorSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SelectorSet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.selectors.cmp(&other.selectors)
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        Self::new(selectors.into_iter().collect())
    }
}

impl fmt::Display for SelectorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, selector) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            write!(f, "{selector}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(values: &[&str]) -> SelectorSet {
        values.iter().map(|value| Selector::new("unix", value)).collect()
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        assert_eq!(set(&["uid:1", "gid:2", "uid:1"]), set(&["gid:2", "uid:1"]));
    }

    #[test]
    fn sets_that_hold_the_same_are_one_key() {
        let mut known = std::collections::HashSet::from([set(&["uid:1", "gid:2"])]);
        assert!(!known.insert(set(&["gid:2", "uid:1"])));
        assert!(known.insert(set(&["gid:2"])));
        assert!(known.insert(set(&[])));
    }

    #[test]
    fn every_set_contains_the_empty_one() {
        assert!(set(&[]).contains_all(&set(&[])));
        assert!(set(&["uid:1"]).contains_all(&set(&[])));
        assert!(!set(&[]).contains_all(&set(&["uid:1"])));
    }

    #[test]
    fn logs_show_only_the_prefixes_that_were_allowed() {
        let caller = set(&["uid:1000", "user:bob", "path:/bin/x"]);
        let shown = |prefixes: &[&str]| {
            caller.loggable(&prefixes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&["unix:u"]), None, "a prefix ends at a colon");
        assert_eq!(shown(&["unix:uid"]).as_deref(), Some("unix:uid:1000"));
        assert_eq!(
            shown(&["unix:user:bob", "unix:uid"]).as_deref(),
            Some("unix:uid:1000,unix:user:bob")
        );
    }

    proptest! {
        #[test]
        fn containment_is_that_of_sets(a in proptest::collection::vec(0u8..12, 0..8), b in proptest::collection::vec(0u8..12, 0..8)) {
            let make = |numbers: &[u8]| -> SelectorSet {
                numbers.iter().map(|n| Selector::new("t", &n.to_string())).collect()
            };
            let expected = b.iter().all(|n| a.contains(n));
            prop_assert_eq!(make(&a).contains_all(&make(&b)), expected);
        }
    }
}
