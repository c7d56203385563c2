//! How many plugins of a kind there may be.

use steeple_plugin::Kind;
use steeple_plugins::node_attestor::composite;

use crate::spec::Side;

/// A kind with the fewest and the most that there may be of it; without limit when zero.
type Rule = (Kind, usize, usize);

const SERVER: [Rule; 6] = [
    (Kind::KeyManager, 1, 1),
    (Kind::UpstreamAuthority, 0, 1),
    (Kind::NodeAttestor, 0, 0),
    (Kind::CredentialComposer, 0, 0),
    (Kind::Notifier, 0, 0),
    (Kind::BundlePublisher, 0, 0),
];

const AGENT: [Rule; 4] = [
    (Kind::KeyManager, 1, 1),
    (Kind::NodeAttestor, 1, 1),
    (Kind::WorkloadAttestor, 1, 0),
    (Kind::SvidStore, 0, 0),
];

const fn rules(side: Side) -> &'static [Rule] {
    match side {
        Side::Agent => &AGENT,
        Side::Server => &SERVER,
    }
}

/// Whether plugins of this kind run on that side.
pub(super) fn is_loaded_by(side: Side, kind: Kind) -> bool {
    rules(side).iter().any(|(known, ..)| *known == kind)
}

/// The kinds to count of plugins: what a composite consists of is a part of it.
pub(super) fn counted<'a>(plugins: impl Iterator<Item = (Kind, &'a str)>) -> Vec<Kind> {
    let plugins: Vec<_> = plugins.collect();
    let has_composite = plugins.contains(&(Kind::NodeAttestor, composite::NAME));
    let is_part = |kind: Kind, name: &str| {
        has_composite && kind == Kind::NodeAttestor && name != composite::NAME
    };
    plugins.into_iter().filter(|(kind, name)| !is_part(*kind, name)).map(|(kind, _)| kind).collect()
}

/// The kinds that there are too many or too few of, with what was expected.
pub fn check_counts(side: Side, kinds: impl Iterator<Item = Kind>) -> Vec<(Kind, String)> {
    let kinds: Vec<Kind> = kinds.collect();
    let broken = rules(side).iter().filter_map(|(kind, least, most)| {
        let count = kinds.iter().filter(|it| *it == kind).count();
        let expected = if least == most && *most > 0 && count != *least {
            format!("exactly {least}")
        } else if count < *least {
            format!("at least {least}")
        } else if *most > 0 && count > *most {
            format!("at most {most}")
        } else {
            return None;
        };
        Some((*kind, format!("expected {expected} but got {count}")))
    });
    broken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_and_too_few_are_told_apart() {
        let check = |side, kinds: &[Kind]| {
            check_counts(side, kinds.iter().copied())
                .into_iter()
                .map(|(kind, reason)| format!("{kind}: {reason}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(check(Side::Server, &[]), ["KeyManager: expected exactly 1 but got 0"]);
        let two = [Kind::KeyManager, Kind::UpstreamAuthority, Kind::UpstreamAuthority];
        assert_eq!(check(Side::Server, &two), ["UpstreamAuthority: expected at most 1 but got 2"]);
        let agent = [Kind::KeyManager, Kind::NodeAttestor];
        assert_eq!(check(Side::Agent, &agent), ["WorkloadAttestor: expected at least 1 but got 0"]);
        let many = [Kind::KeyManager, Kind::Notifier, Kind::Notifier, Kind::NodeAttestor];
        assert!(check(Side::Server, &many).is_empty());
    }

    #[test]
    fn the_parts_of_a_composite_count_as_one() {
        let (node, keys) = (Kind::NodeAttestor, Kind::KeyManager);
        let two = [(node, "tpm"), (keys, "disk"), (node, "aws_iid")];
        assert_eq!(counted(two.into_iter()), [node, keys, node]);
        let three = [(node, "tpm"), (keys, "disk"), (node, "aws_iid"), (node, "composite")];
        assert_eq!(counted(three.into_iter()), [keys, node]);
    }

    #[test]
    fn each_side_has_its_kinds() {
        assert!(is_loaded_by(Side::Agent, Kind::SvidStore));
        assert!(!is_loaded_by(Side::Server, Kind::WorkloadAttestor));
    }
}
