//! What may be wrong with a program that does not speak as a plugin does.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

/// The lines that go-plugin's users know.
pub(crate) fn about(path: &Path) -> String {
    let mut text = "This usually means\n  the plugin was not compiled for this architecture,\n  \
                    the plugin is missing dynamic-link libraries necessary to run,\n  the plugin \
                    is not executable by this process due to file permissions, or\n  the plugin \
                    failed to negotiate the initial go-plugin protocol handshake\n"
        .to_owned();
    let Ok(found) = fs::metadata(path) else { return text };
    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    let (own_uid, own_gid) = (Uid::current(), Gid::current());
    text.push_str(&format!(
        "\nAdditional notes about plugin:\n  Path: {}\n  Mode: {}\n  Owner: {uid} [{}] (current: \
         {own_uid} [{}])\n  Group: {gid} [{}] (current: {own_gid} [{}])\n",
        path.display(),
        mode(found.permissions().mode()),
        user(uid),
        user(own_uid),
        group(gid),
        group(own_gid),
    ));
    text
}

fn mode(bits: u32) -> String {
    let letters = "rwxrwxrwx".chars().enumerate();
    let shown = letters.map(|(at, letter)| if bits >> (8 - at) & 1 == 1 { letter } else { '-' });
    std::iter::once('-').chain(shown).collect()
}

fn user(id: Uid) -> String {
    User::from_uid(id).ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name)
}

fn group(id: Gid) -> String {
    Group::from_gid(id).ok().flatten().map_or_else(|| "?".to_owned(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notes_name_the_file_and_its_mode() {
        let text = about(Path::new("/bin/true"));
        assert!(text.contains("\n  Path: /bin/true\n  Mode: -rwx"), "{text}");
        assert!(text.contains("Owner: 0 [root]"), "{text}");
        assert!(!about(Path::new("/nope")).contains("Additional notes"));
        assert_eq!(mode(0o640), "-rw-r-----");
    }
}
