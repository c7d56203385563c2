//! Rules on what nodes prove of themselves.

use std::fmt;

use steeple_spiffe::{Selector, SpiffeId};

/// All of its rules must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionPolicy {
    /// The rules, in the order in which they are looked at.
    pub rules: Vec<AdmissionRule>,
    /// Refuses nodes that no rule speaks of.
    pub refuses_others: bool,
}

/// What a node's selectors must be; what is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionRule {
    /// What errors call it.
    pub name: String,
    /// The attestors that it speaks of; all when empty.
    pub attestors: Vec<String>,
    /// Each must match a selector.
    pub all: Vec<SelectorPattern>,
    /// One at least must match a selector.
    pub any: Vec<SelectorPattern>,
    /// None may match a selector.
    pub none: Vec<SelectorPattern>,
}

/// A selector as text in which `*` stands for any characters, also none.
#[derive(Clone, PartialEq, Eq)]
pub struct SelectorPattern(String);

/// The rule that a node does not satisfy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Nothing matches a pattern of `all`.
    #[error("rule {rule:?} wants a selector {pattern:?} (all), which the node lacks")]
    Missing {
        /// The rule.
        rule: String,
        /// The pattern.
        pattern: SelectorPattern,
    },
    /// Nothing matches any pattern of `any`.
    #[error("rule {rule:?} wants one of the selectors {} (any), none of which the node has", listed(.patterns))]
    NoneOf {
        /// The rule.
        rule: String,
        /// The patterns.
        patterns: Vec<SelectorPattern>,
    },
    /// Something matches a pattern of `none`.
    #[error("rule {rule:?} wants no selector {pattern:?} (none), and the node has {:?}", .selector.to_string())]
    Unwanted {
        /// The rule.
        rule: String,
        /// The pattern.
        pattern: SelectorPattern,
        /// What matches it.
        selector: Selector,
    },
    /// Others are refused.
    #[error("no rule speaks of node attestor {attestor:?}, and the default is to refuse")]
    NoRule {
        /// The attestor.
        attestor: String,
    },
}

impl Violation {
    /// The name of the rule; empty for the default.
    #[must_use]
    pub fn rule(&self) -> &str {
        match self {
            Self::Missing { rule, .. }
            | Self::NoneOf { rule, .. }
            | Self::Unwanted { rule, .. } => rule,
            Self::NoRule { .. } => "",
        }
    }
}

impl AdmissionPolicy {
    /// Whether there is anything to satisfy.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.rules.is_empty() && !self.refuses_others
    }

    /// Whether a node is let in that attested by `attestors` (a composite's parts among them) and
    /// has `selectors`, to which its ID is added as `spiffe_id:`.
    ///
    /// # Errors
    /// The first rule that is not satisfied.
    pub fn judge(
        &self,
        attestors: &[&str],
        agent: &SpiffeId,
        selectors: &[Selector],
    ) -> Result<(), Violation> {
        if self.is_off() {
            return Ok(());
        }
        let mut shown: Vec<Selector> = selectors.to_vec();
        shown.push(Selector::new("spiffe_id", agent.as_str()));
        let mut spoken_of = false;
        for rule in self.rules.iter().filter(|rule| rule.speaks_of(attestors)) {
            spoken_of = true;
            rule.judge(&shown)?;
        }
        if !spoken_of && self.refuses_others {
            let attestor = attestors.first().copied().unwrap_or_default().to_owned();
            return Err(Violation::NoRule { attestor });
        }
        Ok(())
    }
}

impl AdmissionRule {
    fn speaks_of(&self, attestors: &[&str]) -> bool {
        self.attestors.is_empty()
            || self.attestors.iter().any(|known| attestors.contains(&known.as_str()))
    }

    fn judge(&self, selectors: &[Selector]) -> Result<(), Violation> {
        let texts: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        let found = |pattern: &SelectorPattern| texts.iter().position(|it| pattern.matches(it));
        let rule = || self.name.clone();
        // What must not be is said first: it weighs most.
        for pattern in &self.none {
            if let Some(at) = found(pattern) {
                let selector = selectors[at].clone();
                return Err(Violation::Unwanted {
                    rule: rule(),
                    pattern: pattern.clone(),
                    selector,
                });
            }
        }
        if let Some(pattern) = self.all.iter().find(|pattern| found(pattern).is_none()) {
            return Err(Violation::Missing { rule: rule(), pattern: pattern.clone() });
        }
        if !self.any.is_empty() && self.any.iter().all(|pattern| found(pattern).is_none()) {
            return Err(Violation::NoneOf { rule: rule(), patterns: self.any.clone() });
        }
        Ok(())
    }
}

impl SelectorPattern {
    /// A pattern; the configuration has checked its form.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether a selector, as `type:value`, fits. Takes time in proportion to the lengths of both,
    /// multiplied at worst.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut next) = (0, 0);
        // Where to go on when the last star must take one byte more.
        let mut again: Option<(usize, usize)> = None;
        while next < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    again = Some((at + 1, next));
                    at += 1;
                }
                Some(byte) if *byte == text[next] => {
                    at += 1;
                    next += 1;
                }
                _ => match again {
                    Some((after, taken)) => {
                        again = Some((after, taken + 1));
                        at = after;
                        next = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Debug for SelectorPattern {
    /// As a text in quotes: it stands so in errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn listed(patterns: &[SelectorPattern]) -> String {
    patterns.iter().map(|it| format!("{:?}", it.0)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<SelectorPattern> {
        texts.iter().map(|text| SelectorPattern::new(*text)).collect()
    }

    fn selectors(texts: &[&str]) -> Vec<Selector> {
        texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    fn judge(policy: &AdmissionPolicy, attestors: &[&str], has: &[&str]) -> Result<(), String> {
        let id = SpiffeId::parse("spiffe://td/spire/agent/k/node-1").unwrap();
        policy.judge(attestors, &id, &selectors(has)).map_err(|violation| violation.to_string())
    }

    #[test]
    fn a_star_stands_for_any_characters_and_all_else_for_itself() {
        for (pattern, text, fits) in [
            ("a:b", "a:b", true),
            ("a:b", "a:bc", false),
            ("a:*", "a:", true),
            ("a:*", "b:x", false),
            ("*:b", "aaa:b", true),
            ("a:*c", "a:bcbc", true),
            ("a:*c", "a:bcb", false),
            ("a:**b*", "a:xxbxx", true),
            ("*", "", true),
            ("a:?", "a:x", false),
            ("a:[x]", "a:x", false),
            ("a:*.prod.*", "a:web.prod.example.org", true),
        ] {
            assert_eq!(SelectorPattern::new(pattern).matches(text), fits, "{pattern} {text}");
        }
        // Many stars against what never fits: no more than the product of the lengths.
        let pattern = SelectorPattern::new("*a".repeat(400));
        assert!(!pattern.matches(&"a".repeat(399)));
        assert!(!SelectorPattern::new(format!("{}b", "*a".repeat(500))).matches(&"a".repeat(4000)));
    }

    #[test]
    fn a_node_must_satisfy_every_rule_that_speaks_of_its_attestor() {
        let policy = AdmissionPolicy {
            rules: vec![
                AdmissionRule {
                    name: "prod".into(),
                    attestors: vec!["k".into()],
                    all: patterns(&["k:env:prod", "k:team:*"]),
                    any: patterns(&["k:zone:a", "k:zone:b"]),
                    ..AdmissionRule::default()
                },
                AdmissionRule {
                    name: "no quarantine".into(),
                    none: patterns(&["*:quarantine:*"]),
                    ..AdmissionRule::default()
                },
            ],
            refuses_others: false,
        };
        let good = ["k:env:prod", "k:team:x", "k:zone:b"];
        assert_eq!(judge(&policy, &["k"], &good), Ok(()));
        assert_eq!(judge(&policy, &["other"], &[]), Ok(()));
        assert_eq!(judge(&policy, &["composite", "tpm", "k"], &good), Ok(()));
        for (has, why) in [
            (
                vec!["k:env:prod", "k:zone:a"],
                "rule \"prod\" wants a selector \"k:team:*\" (all), which the node lacks",
            ),
            (
                vec!["k:env:prod", "k:team:x", "k:zone:c"],
                "rule \"prod\" wants one of the selectors \"k:zone:a\", \"k:zone:b\" (any), none \
                 of which the node has",
            ),
            (
                vec!["k:env:prod", "k:team:x", "k:zone:a", "k:quarantine:yes"],
                "rule \"no quarantine\" wants no selector \"*:quarantine:*\" (none), and the node \
                 has \"k:quarantine:yes\"",
            ),
        ] {
            assert_eq!(judge(&policy, &["k"], &has).unwrap_err(), why);
        }
        assert!(judge(&policy, &["composite", "tpm", "k"], &["tpm:x:y"]).is_err());
        assert!(judge(&policy, &["other"], &["other:quarantine:x"]).is_err());
    }

    #[test]
    fn others_are_refused_when_that_is_the_default_and_an_id_can_be_asked_for() {
        let rule = AdmissionRule {
            name: "ids".into(),
            attestors: vec!["k".into()],
            all: patterns(&["spiffe_id:spiffe://td/spire/agent/k/node-*"]),
            ..AdmissionRule::default()
        };
        let policy = AdmissionPolicy { rules: vec![rule], refuses_others: true };
        assert_eq!(judge(&policy, &["k"], &[]), Ok(()));
        assert_eq!(
            judge(&policy, &["join_token"], &[]).unwrap_err(),
            "no rule speaks of node attestor \"join_token\", and the default is to refuse"
        );
        assert!(AdmissionPolicy::default().is_off());
        assert_eq!(judge(&AdmissionPolicy::default(), &["x"], &[]), Ok(()));
    }
}
