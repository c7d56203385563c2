//! Which Podman a container is of, by the names of its groups.

use super::container::{Cgroup, user_slice};

const ROOTFUL: &str = "unix:///run/podman/podman.sock";
const ROOTLESS: &str = "unix:///run/user/%d/podman/podman.sock";

/// Where the Podmans listen.
#[derive(Debug)]
pub(super) struct Podman {
    rootful: String,
    /// What stands before and after the user's number; none when users' own are not asked.
    rootless: Option<(String, String)>,
}

/// Who is to be asked about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    Docker,
    /// The system's Podman, at this socket.
    Podman(String),
    /// The Podman of a user, at this socket.
    Rootless(String),
    /// That of a user, who is not to be believed.
    Ignored,
}

impl Podman {
    /// Empty texts stand for SPIRE's defaults. Says what is wrong with the template.
    pub(super) fn new(
        rootful: &str,
        template: &str,
        trust_users: bool,
    ) -> Result<Self, &'static str> {
        let or = |text: &str, default: &str| match text {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        let rootless = split(&or(template, ROOTLESS))?;
        Ok(Self { rootful: or(rootful, ROOTFUL), rootless: trust_users.then_some(rootless) })
    }

    /// By the first group that is Podman's.
    pub(super) fn of(&self, groups: &[Cgroup]) -> Runtime {
        let is_podmans =
            |group: &&Cgroup| group.path.contains("libpod-") || group.path.contains("/libpod/");
        let Some(group) = groups.iter().find(is_podmans) else { return Runtime::Docker };
        match (user_slice(&group.path), &self.rootless) {
            (Some(uid), Some((before, after))) => {
                Runtime::Rootless(format!("{before}{uid}{after}"))
            }
            (Some(_), None) => Runtime::Ignored,
            (None, _) => Runtime::Podman(self.rootful.clone()),
        }
    }
}

/// A template with one `%d`, and `%%` for each `%`.
fn split(template: &str) -> Result<(String, String), &'static str> {
    let mut parts = vec![String::new()];
    let mut characters = template.chars();
    while let Some(character) = characters.next() {
        let last = parts.last_mut().expect("there is always one");
        match (character, character == '%') {
            (other, false) => last.push(other),
            (_, true) => match characters.next() {
                Some('%') => last.push('%'),
                Some('d') => parts.push(String::new()),
                Some(_) => {
                    return Err("template only supports escaped %% or the %d UID placeholder");
                }
                None => return Err("trailing % at end of template"),
            },
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([before, after]) => Ok((before, after)),
        Err(_) => Err("template must contain exactly one %d UID placeholder"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn runtime(podman: &Podman, path: &str) -> Runtime {
        let path = path.replace("<id>", ID);
        podman.of(&[
            Cgroup { hierarchy: "1".to_owned(), path: "/".to_owned() },
            Cgroup { hierarchy: "0".to_owned(), path },
        ])
    }

    #[test]
    fn the_groups_say_whose_podman_it_is() {
        let podman = Podman::new("", "", true).unwrap();
        let user =
            |uid: u32| Runtime::Rootless(format!("unix:///run/user/{uid}/podman/podman.sock"));
        let root = Runtime::Podman(ROOTFUL.to_owned());
        let slice = "/user.slice/user-1000.slice/user@1000.service/user.slice";
        for (path, expected) in [
            ("/system.slice/docker-<id>.scope", Runtime::Docker),
            ("/machine.slice/libpod-<id>.scope", root.clone()),
            ("/libpod_parent/libpod-<id>", root.clone()),
            ("/x/libpod/<id>", root.clone()),
            (&format!("{slice}/libpod-<id>.scope"), user(1000)),
            (&format!("{slice}/libpod/<id>"), user(1000)),
            // What a user named after another's slice is still his.
            (&format!("{slice}/user-0.slice/libpod-<id>.scope"), user(1000)),
            ("/user.slice/user-4294967296.slice/libpod-<id>.scope", root.clone()),
            ("/user.slice/user-x.slice/user-5.slice/libpod-<id>.scope", user(5)),
        ] {
            assert_eq!(runtime(&podman, path), expected, "{path}");
        }
        let wary = Podman::new("", "", false).unwrap();
        assert_eq!(runtime(&wary, &format!("{slice}/libpod-<id>.scope")), Runtime::Ignored);
        assert_eq!(runtime(&wary, "/machine.slice/libpod-<id>.scope"), root);
    }

    #[test]
    fn templates_have_one_place_for_the_user() {
        let at = |template| {
            let podman = Podman::new("unix:///p", template, true).unwrap();
            match runtime(&podman, "/user.slice/user-7.slice/libpod-<id>.scope") {
                Runtime::Rootless(socket) => socket,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at("unix:///c/%d/p%%x.sock"), "unix:///c/7/p%x.sock");
        let refused = |template| Podman::new("", template, true).unwrap_err();
        assert_eq!(refused("%s"), "template only supports escaped %% or the %d UID placeholder");
        assert_eq!(refused("%d%"), "trailing % at end of template");
        assert_eq!(refused("x"), "template must contain exactly one %d UID placeholder");
        assert_eq!(refused("%d%d"), "template must contain exactly one %d UID placeholder");
    }
}
