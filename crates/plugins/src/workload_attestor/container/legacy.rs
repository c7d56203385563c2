//! The rules that SPIRE's `k8s` plugin had before its new locator (`use_new_container_locator =
//! false`).

use super::cgroup::Cgroup;
use super::names::{Conflict, take_uuid, user_slice};
use super::{Container, Source};

const ID_LENGTH: usize = 64;

/// The container that all groups agree on.
pub(super) fn find(groups: &[Cgroup]) -> Result<Option<Container>, Conflict> {
    let mut found: Option<(String, String)> = None;
    let mut slice = None;
    for group in groups {
        let Some((pod_uid, id)) = ids(&group.path) else { continue };
        slice = slice.or_else(|| user_slice(&group.path));
        match &found {
            None => found = Some((pod_uid, id)),
            Some((_, known)) if *known != id => {
                return Err(Conflict::LegacyContainers(known.clone(), id));
            }
            Some((known, _)) if *known != pod_uid => {
                return Err(Conflict::LegacyPods(known.clone(), pod_uid));
            }
            Some(_) => {}
        }
    }
    Ok(found.map(|(pod_uid, id)| Container {
        id,
        pod_uid: Some(pod_uid).filter(|uid| !uid.is_empty()),
        source: Source::Cgroup,
        user_slice: slice,
    }))
}

/// A name that fits both rules is no container's.
fn ids(path: &str) -> Option<(String, String)> {
    let path = path.strip_suffix(".scope").unwrap_or(path);
    let (before, id) = path.split_at_checked(path.len().checked_sub(ID_LENGTH)?)?;
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match (pod_before(before), is_crio(before)) {
        (Some(pod_uid), false) => Some((canonical(pod_uid), id.to_owned())),
        (None, true) => Some((String::new(), id.to_owned())),
        _ => None,
    }
}

/// `…<punct>pod<uid><punct>`, then words that each end with one more punctuation mark.
fn pod_before(before: &str) -> Option<&str> {
    before.match_indices("pod").find_map(|(at, _)| {
        before[..at].ends_with(is_punct).then_some(())?;
        let (uid, rest) = take_uuid(&before[at + 3..], is_punct, false)?;
        let mut words = rest.strip_prefix(is_punct)?.split(is_punct);
        // The last is what follows the last mark: nothing.
        let last = words.next_back();
        (last == Some("") && words.all(|word| !word.is_empty())).then_some(uid)
    })
}

/// CRI-O with KubeEdge: `…crio<punct>` with no pod before it.
fn is_crio(before: &str) -> bool {
    let Some(before) = before.strip_suffix(is_punct).and_then(|it| it.strip_suffix("crio")) else {
        return false;
    };
    let plain = |text: &str| text.chars().all(|c| c == '/' || !is_punct(c));
    // The rule matches as far to the left as it can; there, a pod may stand and forbids it.
    let first_plain = before.rfind(|c| c != '/' && is_punct(c)).map_or(0, |at| at + 1);
    let pod_further_left = before[..first_plain].match_indices("pod").any(|(at, _)| {
        let after = take_uuid(&before[at + 3..], is_punct, false)
            .and_then(|(_, rest)| rest.strip_prefix(is_punct));
        after.is_some_and(plain)
    });
    let pod_there =
        take_uuid(before[first_plain..].strip_prefix("pod").unwrap_or(""), is_punct, false)
            .and_then(|(_, rest)| rest.strip_prefix(is_punct))
            .is_some_and(plain);
    !pod_further_left && !pod_there
}

fn canonical(uid: &str) -> String {
    // Marks that Unicode counts as symbols stay, as in SPIRE.
    let mark = |c| is_punct(c) && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~');
    uid.replace(mark, "-")
}

fn is_punct(c: char) -> bool {
    c.is_ascii_punctuation()
}
