//! Sets of selectors, sorted once so that every later question is a merge.

use std::fmt;
use std::sync::Arc;

use steeple_spiffe::Selector;

/// A sorted set of selectors without duplicates; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SelectorSet(Arc<[Selector]>);

impl SelectorSet {
    /// Sorts, drops duplicates.
    pub fn new(mut selectors: Vec<Selector>) -> Self {
        selectors.sort_unstable();
        selectors.dedup();
        Self(selectors.into())
    }

    /// Whether every selector of `other` is in this set.
    pub fn contains_all(&self, other: &SelectorSet) -> bool {
        if other.len() > self.len() {
            return false;
        }
        let mut mine = self.iter();
        other.iter().all(|wanted| mine.by_ref().find(|have| *have >= wanted) == Some(wanted))
    }

    /// The selectors in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// How many selectors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known about the caller.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The selectors that a log may show: those equal to one of `prefixes`, or
    /// that continue one after a colon (`log_selectors`), joined by commas.
    pub fn loggable(&self, prefixes: &[String]) -> Option<String> {
        let shown: Vec<String> = self
            .iter()
            .map(ToString::to_string)
            .filter(|selector| {
                prefixes.iter().any(|prefix| {
                    selector
                        .strip_prefix(prefix.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
                })
            })
            .collect();
        (!shown.is_empty()).then(|| shown.join(","))
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
