//! Whether a process is in the container that its groups or mounts name.
//!
//! Names prove little: a user with a part of the cgroup tree to himself may name a group there
//! after anybody's container. The daemon knows the first process of each container; that one's
//! groups say where the container really is.

use std::fs;
use std::path::{Path, PathBuf};

use super::container::{Cgroup, Container, Source, cgroups};

/// What there is to say of a claim to be in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    /// It is there.
    Proven,
    /// It is elsewhere, whatever the name says.
    Refuted,
    /// The container's first process is not where we look, as when the daemon is in a PID
    /// namespace of its own, or it just ended.
    Unknown,
}

/// Whether process `pid` with its `groups` is in the `container` whose first process is `first`.
pub(super) fn check(
    proc_root: &Path,
    container: &Container,
    groups: &[Cgroup],
    (pid, first): (i32, i32),
) -> Membership {
    let Ok(theirs) = cgroups(proc_root, first) else { return Membership::Unknown };
    match container.source {
        Source::Cgroup => compare(&container.id, groups, &theirs),
        Source::Mounts => {
            let namespace = |pid: i32| -> Option<PathBuf> {
                fs::read_link(proc_root.join(pid.to_string()).join("ns/mnt")).ok()
            };
            match (namespace(pid), namespace(first)) {
                (Some(one), Some(other)) if one == other => Membership::Proven,
                (Some(_), Some(_)) => Membership::Refuted,
                _ => Membership::Unknown,
            }
        }
    }
}

/// Where the caller's groups have the id, the container's have the same path.
fn compare(id: &str, groups: &[Cgroup], theirs: &[Cgroup]) -> Membership {
    let mut membership = Membership::Unknown;
    for group in groups {
        let Some(place) = place(&group.path, id) else { continue };
        let same = |it: &&Cgroup| it.hierarchy == group.hierarchy;
        let Some(path) = theirs.iter().find(same).map(|it| &*it.path) else { continue };
        if path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            membership = Membership::Proven;
        } else if path.contains(id) {
            return Membership::Refuted;
        }
    }
    membership
}

/// The path up to the segment that names the container, the last such one.
fn place<'a>(path: &'a str, id: &str) -> Option<&'a str> {
    let at = path.rfind(id)?;
    let end = path[at..].find('/').map_or(path.len(), |slash| at + slash);
    Some(&path[..end])
}

/// Whether the name of a container may be some user's invention: it lies in a user's part of the
/// tree, or in another container's.
pub(super) fn may_be_invented(container: &Container, groups: &[Cgroup]) -> bool {
    let inside_another = |group: &Cgroup| {
        let Some(place) = place(&group.path, &container.id) else { return false };
        let before = place.rsplit_once('/').map_or("", |(before, _)| before);
        let hex = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        before.split(|c: char| !c.is_ascii_alphanumeric()).any(hex)
    };
    container.source == Source::Mounts
        || container.user_slice.is_some()
        || groups.iter().any(inside_another)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    fn groups(paths: &[(&str, &str)]) -> Vec<Cgroup> {
        paths
            .iter()
            .map(|(hierarchy, path)| Cgroup {
                hierarchy: (*hierarchy).to_owned(),
                path: path.replace("<id>", ID).replace("<other>", OTHER),
            })
            .collect()
    }

    #[test]
    fn a_process_is_where_the_containers_first_process_is() {
        for (caller, first, expected) in [
            ("/docker/<id>", "/docker/<id>", Membership::Proven),
            ("/s/docker-<id>.scope/a/b", "/s/docker-<id>.scope/init.scope", Membership::Proven),
            ("/m/libpod-<id>.scope/container", "/m/libpod-<id>.scope", Membership::Proven),
            ("/user.slice/docker-<id>.scope", "/s/docker-<id>.scope", Membership::Refuted),
            ("/docker/<other>/docker/<id>", "/docker/<id>", Membership::Refuted),
            ("/docker/<id>", "/docker/<id>x", Membership::Refuted),
            ("/docker/<id>", "/", Membership::Unknown),
            ("/docker/<id>", "/docker/<other>", Membership::Unknown),
        ] {
            let (caller, first) = (groups(&[("0", caller)]), groups(&[("0", first)]));
            assert_eq!(compare(ID, &caller, &first), expected, "{caller:?} {first:?}");
        }
    }

    #[test]
    fn one_hierarchy_that_differs_is_enough() {
        let caller = groups(&[("2", "/docker/<id>"), ("0", "/user/docker-<id>")]);
        let first = groups(&[("2", "/docker/<id>"), ("0", "/docker/<id>")]);
        assert_eq!(compare(ID, &caller, &first), Membership::Refuted);
        let caller = groups(&[("2", "/docker/<id>"), ("0", "/")]);
        assert_eq!(compare(ID, &caller, &first), Membership::Proven);
    }

    #[test]
    fn names_in_the_hands_of_users_may_be_inventions() {
        let container = |user_slice| Container {
            id: ID.to_owned(),
            pod_uid: None,
            source: Source::Cgroup,
            user_slice,
        };
        let invented = |path, slice| may_be_invented(&container(slice), &groups(&[("0", path)]));
        assert!(!invented("/docker/<id>", None));
        assert!(invented("/user.slice/user-7.slice/docker-<id>.scope", Some(7)));
        assert!(invented("/machine.slice/libpod-<other>.scope/docker-<id>.scope", None));
        assert!(!invented("/system.slice/docker-<id>.scope/x", None));
    }
}
