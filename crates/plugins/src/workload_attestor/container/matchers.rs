//! `container_id_cgroup_matchers`: patterns of an operator's for the names of groups, where `*`
//! stands for any segment and `<id>` for the container.

use super::cgroup::Cgroup;

const ANY: &str = "*";
const ID: &str = "<id>";

/// Patterns of which at most one fits any name.
#[derive(Debug)]
pub(crate) struct Matchers(Vec<Vec<String>>);

/// Why patterns cannot be used, or give no container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MatcherError {
    #[error("pattern {0:?} must contain the container id token {ID:?} exactly once")]
    Token(String),
    #[error("dockerfinder: patterns must not be ambiguous: [{}]", quoted(.0))]
    Ambiguous(Vec<String>),
    #[error("workloadattestor/docker: multiple container IDs found in cgroups ({0}, {1})")]
    Conflict(String, String),
    #[error("workloadattestor/docker: a pattern matched, but no container id was found")]
    Blank,
}

impl Matchers {
    /// # Errors
    /// When a pattern has not exactly one `<id>`, or two patterns fit the same name.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, MatcherError> {
        let split: Vec<Vec<String>> = patterns
            .iter()
            .map(|pattern| pattern.split('/').map(str::to_owned).collect())
            .collect();
        let mut ambiguous = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let others = split.iter().enumerate().filter(|(other, _)| *other != index);
            let clashes = others.into_iter().any(|(_, other)| overlap(&split[index], other));
            if clashes && !ambiguous.contains(pattern) {
                ambiguous.push(pattern.clone());
            }
        }
        if !ambiguous.is_empty() {
            return Err(MatcherError::Ambiguous(ambiguous));
        }
        for (pattern, segments) in patterns.iter().zip(&split) {
            if segments.iter().filter(|segment| *segment == ID).count() != 1 {
                return Err(MatcherError::Token(pattern.clone()));
            }
        }
        Ok(Self(split))
    }

    /// The container that the groups agree on; none when no pattern fits.
    ///
    /// # Errors
    /// When they name several containers, or one without a name.
    pub(crate) fn find(&self, groups: &[Cgroup]) -> Result<Option<String>, MatcherError> {
        let mut matched = false;
        let mut found = String::new();
        for group in groups {
            let Some(id) = self.0.iter().find_map(|pattern| id_in(pattern, &group.path)) else {
                continue;
            };
            matched = true;
            if found.is_empty() {
                id.clone_into(&mut found);
            } else if found != id {
                return Err(MatcherError::Conflict(found, id.to_owned()));
            }
        }
        if matched && found.is_empty() {
            return Err(MatcherError::Blank);
        }
        Ok(matched.then_some(found))
    }
}

fn id_in<'a>(pattern: &[String], path: &'a str) -> Option<&'a str> {
    if path.split('/').count() != pattern.len() {
        return None;
    }
    let mut id = None;
    for (expected, segment) in pattern.iter().zip(path.split('/')) {
        match expected.as_str() {
            ANY => {}
            ID => id = Some(segment),
            other if other == segment => {}
            _ => return None,
        }
    }
    id
}

/// Whether some name fits both.
fn overlap(one: &[String], other: &[String]) -> bool {
    let open = |segment: &str| segment == ANY || segment == ID;
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a == b || open(a) || open(b))
}

fn quoted(patterns: &[String]) -> String {
    patterns.iter().map(|pattern| format!("{pattern:?}")).collect::<Vec<_>>().join(" ")
}
