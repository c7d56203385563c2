//! `server.attestation_policy`: which of the nodes whose evidence holds are let in. Ours.

use steeple_hcl::Located;

use crate::checks::{Checker, quote, set, shorten};
use crate::plugins::PluginConfig;
use crate::raw::server::{AttestationPolicy as RawPolicy, AttestationRule as RawRule};

/// Rules that nodes must satisfy, all of them; none when the block is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestationPolicy {
    /// The rules, sorted by name.
    pub rules: Vec<AttestationRule>,
    /// Whether a node is refused that no rule speaks of (`default = "refuse"`).
    pub refuses_others: bool,
}

/// `rule "<name>"`: patterns of selectors, `type:value`, in which `*` stands for any characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestationRule {
    /// Its name.
    pub name: String,
    /// The node attestors that it speaks of; all when empty.
    pub attestors: Vec<String>,
    /// Each must match one of the node's selectors.
    pub all: Vec<String>,
    /// One at least must.
    pub any: Vec<String>,
    /// None may.
    pub none: Vec<String>,
}

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;
/// The most patterns of a list, and the most rules.
const MAX_LIST: usize = 256;

const KEY: &str = "server.attestation_policy";

pub(super) fn build(
    checker: &mut Checker,
    raw: &Located<RawPolicy>,
    plugins: &[PluginConfig],
) -> AttestationPolicy {
    let Some(policy) = raw.as_ref() else { return AttestationPolicy::default() };
    let refuses_others = match set(&policy.default) {
        None | Some("admit") => false,
        Some("refuse") => true,
        Some(other) => {
            let text = format!("default must be \"admit\" or \"refuse\", not {}", quote(other));
            checker.problem(policy.default.line(), &format!("{KEY}.default"), text);
            false
        }
    };
    let mut rules = Vec::new();
    for (name, rule) in policy.rule.value.iter().flatten() {
        let line = rule.line().or(policy.rule.line());
        let key = format!("{KEY}.rule.{}", shorten(name));
        if let Some(rule) = rule.as_ref() {
            rules.extend(one(checker, name, rule, line, &key, plugins));
        }
    }
    if rules.len() > MAX_LIST {
        checker.problem(raw.line(), KEY, format!("there are more than {MAX_LIST} rules"));
    }
    if rules.is_empty() && !refuses_others {
        let text = "attestation_policy has no rule and refuses nobody";
        checker.problem(raw.line(), KEY, text);
    }
    AttestationPolicy { rules, refuses_others }
}

fn one(
    checker: &mut Checker,
    name: &str,
    raw: &RawRule,
    line: Option<usize>,
    key: &str,
    plugins: &[PluginConfig],
) -> Option<AttestationRule> {
    let attestors = raw.attestors.value.clone().unwrap_or_default();
    if raw.attestors.value.as_ref().is_some_and(Vec::is_empty) {
        let text = "attestors is empty; leave it out to speak of all of them";
        checker.problem(raw.attestors.line().or(line), &format!("{key}.attestors"), text);
    }
    for attestor in &attestors {
        let is_configured = |plugin: &PluginConfig| {
            plugin.enabled && plugin.kind == "NodeAttestor" && plugin.name == *attestor
        };
        if !plugins.iter().any(is_configured) {
            // A wrong name would let in whom the rule is meant to keep out.
            let text = format!("node attestor {} is not configured", quote(attestor));
            checker.problem(raw.attestors.line().or(line), &format!("{key}.attestors"), text);
        }
    }
    let rule = AttestationRule {
        name: name.to_owned(),
        attestors,
        all: patterns(checker, &raw.all, line, &format!("{key}.all")),
        any: patterns(checker, &raw.any, line, &format!("{key}.any")),
        none: patterns(checker, &raw.none, line, &format!("{key}.none")),
    };
    let asks = [&raw.all, &raw.any, &raw.none];
    if asks.iter().all(|list| list.value.as_ref().is_none_or(Vec::is_empty)) {
        let text = "the rule asks for nothing: one of all, any and none is needed";
        checker.problem(line, key, text);
        return None;
    }
    Some(rule)
}

fn patterns(
    checker: &mut Checker,
    list: &Located<Vec<String>>,
    line: Option<usize>,
    key: &str,
) -> Vec<String> {
    let patterns = list.value.clone().unwrap_or_default();
    let line = list.line().or(line);
    if list.value.is_some() && patterns.is_empty() {
        checker.problem(line, key, "the list is empty");
    }
    if patterns.len() > MAX_LIST {
        checker.problem(line, key, format!("there are more than {MAX_LIST} patterns"));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let key = format!("{key}[{index}]");
        match pattern.split_once(':') {
            _ if pattern.len() > MAX_PATTERN => {
                let text = format!("the pattern is longer than {MAX_PATTERN} bytes");
                checker.problem(line, &key, text);
            }
            Some((kind, value)) if !kind.is_empty() && !value.is_empty() => {}
            _ => {
                let shown = quote(pattern);
                let text = format!("selector pattern {shown} must be formatted as type:value");
                checker.problem(line, &key, text);
            }
        }
    }
    patterns
}
