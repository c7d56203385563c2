//! Where an entry's files go and whose they are: selectors, within limits.

use nix::unistd::{Gid, Group, Uid, User};

/// What the configuration lets entries ask for.
pub(super) struct Limits {
    owners: Vec<Uid>,
    groups: Vec<Gid>,
    max_mode: u32,
}

/// What an entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Names of directories below the root; none of them leads anywhere else.
    pub(super) directory: Vec<String>,
    pub(super) owner: Option<Uid>,
    pub(super) group: Option<Gid>,
    /// Of the key; of the other files beside what everybody may.
    pub(super) mode: u32,
}

impl Limits {
    pub(super) fn new(
        owners: &[String],
        groups: &[String],
        max_mode: &str,
    ) -> Result<Self, String> {
        let max_mode = if max_mode.is_empty() { DEFAULT_MODE } else { mode("max_mode", max_mode)? };
        Ok(Self {
            owners: owners.iter().map(|it| user(it)).collect::<Result<_, _>>()?,
            groups: groups.iter().map(|it| group(it)).collect::<Result<_, _>>()?,
            max_mode,
        })
    }
}

impl Place {
    /// Reads the values of an entry's selectors: `dir:…`, and at most one each of `owner:…`,
    /// `group:…` and `mode:…`.
    pub(super) fn new(metadata: &[String], limits: &Limits) -> Result<Self, String> {
        let (mut dir, mut owner, mut owning_group, mut file_mode) = (None, None, None, None);
        for value in metadata {
            let (key, rest) = value.split_once(':').ok_or_else(|| {
                format!("selector {:?} is not of the form key:value", shown(value))
            })?;
            let slot = match key {
                "dir" => &mut dir,
                "owner" => &mut owner,
                "group" => &mut owning_group,
                "mode" => &mut file_mode,
                _ => return Err(format!("unknown selector {:?}", shown(key))),
            };
            if slot.replace(rest).is_some() {
                return Err(format!("selector {key:?} is given more than once"));
            }
        }
        let directory = directory(dir.ok_or("selector \"dir\" is required")?)?;
        let owner = owner.map(user).transpose()?;
        if owner.is_some_and(|it| !limits.owners.contains(&it)) {
            return Err("the plugin's configuration does not allow this owner".into());
        }
        let group = owning_group.map(group).transpose()?;
        if group.is_some_and(|it| !limits.groups.contains(&it)) {
            return Err("the plugin's configuration does not allow this group".into());
        }
        let mode = file_mode.map_or(Ok(DEFAULT_MODE & limits.max_mode), |it| mode("mode", it))?;
        if mode & !limits.max_mode != 0 {
            let most = limits.max_mode;
            return Err(format!("mode {mode:04o} is more than max_mode {most:04o} allows"));
        }
        Ok(Self { directory, owner, group, mode })
    }
}

/// No component begins with a dot: neither `..` nor one of the names that the store uses itself.
fn directory(path: &str) -> Result<Vec<String>, String> {
    let wrong = |why: &str| Err(format!("directory {:?} {why}", shown(path)));
    let components: Vec<String> = path.split('/').map(str::to_owned).collect();
    if components.len() > MAX_DEPTH {
        return wrong("is too deep");
    }
    for component in &components {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte);
        if component.is_empty() {
            return wrong("has an empty component");
        }
        if component.starts_with('.') || !component.bytes().all(allowed) {
            return wrong("has a component that is not allowed");
        }
        if component.len() > MAX_COMPONENT {
            return wrong("has a component that is too long");
        }
    }
    Ok(components)
}

fn mode(key: &str, text: &str) -> Result<u32, String> {
    let wrong = || format!("{key} {:?} is not an octal mode such as 0640", shown(text));
    let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
    // For reading and writing, by whoever; a key is not executed.
    if mode & !0o666 != 0 { Err(wrong()) } else { Ok(mode) }
}

fn user(text: &str) -> Result<Uid, String> {
    if let Ok(id) = text.parse() {
        return Ok(Uid::from_raw(id));
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid),
        _ => Err(format!("unknown user {:?}", shown(text))),
    }
}

fn group(text: &str) -> Result<Gid, String> {
    if let Ok(id) = text.parse() {
        return Ok(Gid::from_raw(id));
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(format!("unknown group {:?}", shown(text))),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

const DEFAULT_MODE: u32 = 0o600;
const MAX_DEPTH: usize = 8;
const MAX_COMPONENT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(&["1000".into(), "root".into()], &["50".into()], "0640").unwrap()
    }

    fn place(metadata: &[&str]) -> Result<Place, String> {
        let metadata: Vec<String> = metadata.iter().map(|it| (*it).to_owned()).collect();
        Place::new(&metadata, &limits())
    }

    #[test]
    fn an_entry_names_a_directory_and_whose_it_is() {
        let found = place(&["dir:web/a-1", "owner:1000", "group:50", "mode:0440"]).unwrap();
        assert_eq!(found.directory, ["web", "a-1"]);
        assert_eq!(found.owner, Some(Uid::from_raw(1000)));
        assert_eq!(found.group, Some(Gid::from_raw(50)));
        assert_eq!(found.mode, 0o440);
        let found = place(&["dir:x"]).unwrap();
        assert_eq!((found.owner, found.group, found.mode), (None, None, 0o600));
        assert_eq!(place(&["dir:x", "owner:root"]).unwrap().owner, Some(Uid::from_raw(0)));
    }

    #[test]
    fn no_directory_leads_out_of_the_root() {
        for path in
            ["", "/etc", "..", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a\0b", "a b", "ä"]
        {
            assert!(place(&[&format!("dir:{path}")]).is_err(), "{path:?}");
        }
        assert!(place(&[&format!("dir:{}", "a/".repeat(20))]).is_err());
        assert!(place(&[&format!("dir:{}", "a".repeat(200))]).is_err());
        assert!(place(&[]).is_err());
    }

    #[test]
    fn selectors_ask_for_no_more_than_the_configuration_allows() {
        for selector in
            ["owner:1001", "group:51", "mode:0660", "mode:0644", "mode:4640", "mode:rw", "x:y", "x"]
        {
            assert!(place(&["dir:a", selector]).is_err(), "{selector}");
        }
        assert!(place(&["dir:a", "dir:b"]).is_err());
        assert!(place(&["dir:a", "mode:0600", "mode:0640"]).is_err());
        assert!(Limits::new(&["no such user here".into()], &[], "").is_err());
        assert!(Limits::new(&[], &[], "0777").is_err());
    }
}
