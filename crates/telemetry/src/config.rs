//! What is the same for all sinks.

/// How every metric is named and labelled, and which are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The first part of every key: `MetricPrefix`, or the program's name.
    pub prefix: String,
    /// The trust domain's name, as a label on every metric, if any.
    pub trust_domain: Option<String>,
    /// The host's name, as a label on every metric, if any.
    pub host: Option<String>,
    /// Metrics to keep, by the beginning of the name with dots.
    pub allowed_prefixes: Vec<String>,
    /// Metrics to drop, by the beginning of the name with dots; the longest
    /// match of both lists decides.
    pub blocked_prefixes: Vec<String>,
    /// The only labels to keep; all of them without a list.
    pub allowed_labels: Option<Vec<String>>,
    /// Labels to drop.
    pub blocked_labels: Vec<String>,
}

impl Config {
    /// Everything under `prefix`, without labels of its own.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Whether a metric of this dotted name is kept.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        let longest = |prefixes: &[String]| {
            let matching = prefixes.iter().filter(|prefix| name.starts_with(prefix.as_str()));
            matching.map(String::len).max()
        };
        // A prefix in both lists is blocked: it is entered last.
        match (longest(&self.allowed_prefixes), longest(&self.blocked_prefixes)) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(allowed), Some(blocked)) => allowed > blocked,
        }
    }

    /// Whether a label of this name is kept.
    pub(crate) fn keeps_label(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|it| it == name);
        !named(&self.blocked_labels) && self.allowed_labels.as_deref().is_none_or(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_longest_prefix_decides_and_nothing_is_dropped_by_default() {
        let config = Config {
            allowed_prefixes: list(&["s.rpc.agent", "s.both"]),
            blocked_prefixes: list(&["s.rpc", "s.both"]),
            ..Config::new("s")
        };
        assert!(config.keeps("s.started"), "matched by neither list");
        assert!(config.keeps("s.rpc.agent.v1"), "the longer match allows");
        assert!(!config.keeps("s.rpc.entry"), "blocked");
        assert!(!config.keeps("s.both.x"), "in both lists");
        let only_allowed = Config { allowed_prefixes: list(&["s.rpc"]), ..Config::new("s") };
        assert!(only_allowed.keeps("s.started"), "a list of allowed ones alone blocks nothing");
    }

    #[test]
    fn labels_are_kept_by_list() {
        let config = Config { blocked_labels: list(&["host"]), ..Config::new("s") };
        assert!(!config.keeps_label("host") && config.keeps_label("status"));
        let config = Config { allowed_labels: Some(list(&["status"])), ..Config::new("s") };
        assert!(!config.keeps_label("host") && config.keeps_label("status"));
        let none = Config { allowed_labels: Some(Vec::new()), ..Config::new("s") };
        assert!(!none.keeps_label("status"), "an empty list keeps none");
    }
}
