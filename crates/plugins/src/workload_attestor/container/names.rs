//! Ids in the names of groups, as container runtimes and Kubernetes write them.

use super::{Container, Source};

/// As much of a name as a message repeats.
const MAX_ECHO: usize = 256;
const ID_LENGTH: usize = 64;
/// Of the groups of digits in a UUID.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

/// Names that contradict each other; who made them cannot be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    #[error("multiple pod UIDs found ({0:?}, {1:?})")]
    Pods(String, String),
    #[error("multiple container IDs found ({0:?}, {1:?})")]
    Containers(String, String),
    #[error("multiple pod UIDs found in cgroups ({0}, {1})")]
    LegacyPods(String, String),
    #[error("multiple container IDs found in cgroups ({0}, {1})")]
    LegacyContainers(String, String),
}

/// What the names looked at so far say together.
pub(super) struct Names {
    pods: bool,
    pod_uid: String,
    id: String,
    user_slice: Option<u32>,
}

impl Names {
    pub(super) fn new(pods: bool) -> Self {
        Self { pods, pod_uid: String::new(), id: String::new(), user_slice: None }
    }

    /// Looks at one more name.
    ///
    /// A name with a pod outdoes those without: in a cluster in containers of its own, some
    /// hierarchies name the container that is the node.
    pub(super) fn add(&mut self, path: &str) -> Result<(), Conflict> {
        let (pod_uid, id) = ids(path, self.pods);
        if !self.pod_uid.is_empty() && pod_uid.is_empty() {
            return Ok(());
        }
        if self.pod_uid.is_empty() && !pod_uid.is_empty() {
            self.pod_uid.clone_from(&pod_uid);
            id.clone_into(&mut self.id);
        }
        if pod_uid != self.pod_uid {
            return Err(Conflict::Pods(std::mem::take(&mut self.pod_uid), pod_uid));
        }
        if !self.id.is_empty() && id != self.id {
            return Err(Conflict::Containers(std::mem::take(&mut self.id), id.to_owned()));
        }
        if !id.is_empty() {
            id.clone_into(&mut self.id);
            self.user_slice = self.user_slice.or_else(|| user_slice(path));
        }
        Ok(())
    }

    pub(super) fn found(self, source: Source) -> Option<Container> {
        let Self { pod_uid, id, user_slice, .. } = self;
        let pod_uid = Some(pod_uid).filter(|uid| !uid.is_empty());
        (!id.is_empty()).then_some(Container { id, pod_uid, source, user_slice })
    }
}

/// The last pod and container that a path names; empty for none.
fn ids(path: &str, pods: bool) -> (String, &str) {
    // Nothing is looked for before an empty segment.
    let mut segments = path.rsplit('/').take_while(|segment| !segment.is_empty());
    let found =
        segments.by_ref().find_map(|segment| find_id(segment).map(|range| (segment, range)));
    let Some((segment, (start, end))) = found else { return (String::new(), "") };
    let id = &segment[start..end];
    if !pods {
        return (String::new(), id);
    }
    // With some runtimes the pod stands in the same segment, before the container.
    let rest = Some(&segment[..start]).filter(|rest| !rest.is_empty());
    let pod_uid = rest.into_iter().chain(segments).find_map(find_pod_uid);
    (pod_uid.unwrap_or_default(), id)
}

/// The first 64 hexadecimal digits that stand alone.
fn find_id(segment: &str) -> Option<(usize, usize)> {
    let mut start = 0;
    for word in segment.split(|c: char| !is_word(c)) {
        let end = start + word.len();
        if word.len() == ID_LENGTH && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Some((start, end));
        }
        start = end + segment[end..].chars().next().map_or(0, char::len_utf8);
    }
    None
}

/// `pod` and a UUID with dashes, or with underscores as systemd's names have it.
fn find_pod_uid(segment: &str) -> Option<String> {
    segment.match_indices("pod").find_map(|(at, _)| {
        let alone = |c: Option<char>| c.is_none_or(|c| !is_word(c));
        let (uid, rest) = take_uuid(&segment[at + 3..], |c| matches!(c, '-' | '_'), true)?;
        let stands_alone = alone(segment[..at].chars().next_back()) && alone(rest.chars().next());
        stands_alone.then(|| uid.replace('_', "-"))
    })
}

/// A UUID at the beginning of `text`, and what follows it.
pub(super) fn take_uuid(
    text: &str,
    separates: impl Fn(char) -> bool,
    always: bool,
) -> Option<(&str, &str)> {
    let mut rest = text;
    for (index, digits) in UUID.into_iter().enumerate() {
        if index > 0 {
            match rest.strip_prefix(&separates) {
                Some(after) => rest = after,
                None if always => return None,
                None => {}
            }
        }
        let group = rest.get(..digits)?;
        if !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        rest = &rest[digits..];
    }
    Some((&text[..text.len() - rest.len()], rest))
}

/// The user in whose slice a path lies. The first slice counts: what comes after it the user may
/// have named. None, too, when its number is none of a user's.
pub(crate) fn user_slice(path: &str) -> Option<u32> {
    let digits = |number: &&str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    path.split('/')
        .filter_map(|segment| segment.strip_prefix("user-")?.strip_suffix(".slice"))
        .find(digits)?
        .parse()
        .ok()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// At most so much of a name that a user may have made.
pub(crate) fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_ECHO)]
}
