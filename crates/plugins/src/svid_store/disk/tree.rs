//! The directories below the root, reached by handles and never through a symbolic link.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use zeroize::Zeroizing;

pub(super) const SVID: &str = "svid.pem";
pub(super) const KEY: &str = "svid.key";
pub(super) const BUNDLE: &str = "bundle.pem";
pub(super) const FEDERATED: &str = "federated_bundle.";

/// A file to be written.
pub(super) struct File {
    pub(super) name: String,
    pub(super) contents: Zeroizing<Vec<u8>>,
    pub(super) mode: u32,
    pub(super) owner: Option<Uid>,
    pub(super) group: Option<Gid>,
}

/// Why something could not be written or taken away.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("{what} {name:?}: {source}")]
    System { what: &'static str, name: String, source: io::Error },
    #[error("{0:?} is there already and was not made by this plugin")]
    Foreign(String),
}

/// The directory that everything is below.
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        steeple_runtime::fsx::create_dir_all(path, DIRECTORY_MODE)?;
        let root = open(path, DIRECTORY, Mode::empty())?;
        let probe = format!(".probe.{}", unique());
        let file = create(&root, &probe)?;
        drop(file);
        unlinkat(&root, probe.as_str(), UnlinkatFlags::NoRemoveDir)?;
        Ok(Self(root))
    }

    /// Makes the link `path` lead to a directory with exactly these files. If it does already,
    /// nothing is written.
    pub(super) fn put(&self, path: &[String], files: &[File]) -> Result<(), TreeError> {
        let (name, above) = path.split_last().expect("a place has a name");
        let parent = self.descend(above, true)?.expect("missing directories were made");
        let current = ours(&parent, name)?;
        if let Some(current) = &current
            && holds(&parent, current, files).unwrap_or(false)
        {
            return Ok(());
        }
        let version = format!("{}{}", prefix(name), unique());
        let written =
            write_version(&parent, &version, files).and_then(|()| point(&parent, name, &version));
        if let Err(error) = written {
            remove_version(&parent, &version);
            return Err(error);
        }
        // The one before stays for readers that are about to open a file in it.
        self.sweep(&parent, name, &[Some(version), current]);
        Ok(())
    }

    /// Takes the link `path` away and what it led to; nothing else.
    pub(super) fn delete(&self, path: &[String]) -> Result<(), TreeError> {
        let (name, above) = path.split_last().expect("a place has a name");
        let Some(parent) = self.descend(above, false)? else { return Ok(()) };
        match ours(&parent, name) {
            Ok(Some(_)) => {
                unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir)
                    .map_err(|errno| system("unable to remove", name, errno))?;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(plugin_name = super::NAME, %error, "Left alone"),
        }
        self.sweep(&parent, name, &[]);
        sync(&parent).map_err(|error| TreeError::System {
            what: "unable to write",
            name: name.clone(),
            source: error,
        })
    }

    /// The directory at `path`; none if it is missing and is not to be made.
    fn descend(&self, path: &[String], make: bool) -> Result<Option<OwnedFd>, TreeError> {
        let mut at = self.0.try_clone().map_err(|source| TreeError::System {
            what: "unable to open",
            name: path.join("/"),
            source,
        })?;
        for name in path {
            if make {
                match mkdirat(&at, name.as_str(), Mode::from_bits_truncate(DIRECTORY_MODE)) {
                    Ok(()) => set_mode(&at, name)?,
                    Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(system("unable to make", name, errno)),
                }
            }
            at = match openat(&at, name.as_str(), DIRECTORY, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::ENOENT) if !make => return Ok(None),
                Err(errno) => return Err(system("unable to open", name, errno)),
            };
        }
        Ok(Some(at))
    }

    /// Removes the versions of `name` but for those to keep, and links that a crash left behind.
    fn sweep(&self, parent: &OwnedFd, name: &str, keep: &[Option<String>]) {
        for found in names(parent) {
            if found.starts_with(&format!("{}{LINK}", prefix(name))) {
                let _ = unlinkat(parent, found.as_str(), UnlinkatFlags::NoRemoveDir);
            } else if is_version(name, &found) && !keep.iter().flatten().any(|it| *it == found) {
                remove_version(parent, &found);
            }
        }
    }
}

/// What the link leads to, if it is one of ours.
fn ours(parent: &OwnedFd, name: &str) -> Result<Option<String>, TreeError> {
    match readlinkat(parent, name) {
        Ok(target) => match target.into_string() {
            Ok(target) if is_version(name, &target) => Ok(Some(target)),
            _ => Err(TreeError::Foreign(name.to_owned())),
        },
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::EINVAL) => Err(TreeError::Foreign(name.to_owned())),
        Err(errno) => Err(system("unable to read", name, errno)),
    }
}

/// Whether a version is exactly these files.
fn holds(parent: &OwnedFd, version: &str, files: &[File]) -> io::Result<bool> {
    let directory = openat(parent, version, DIRECTORY, Mode::empty())?;
    if names(&directory).len() != files.len() {
        return Ok(false);
    }
    for file in files {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = fs::File::from(openat(&directory, file.name.as_str(), flags, Mode::empty())?);
        let about = found.metadata()?;
        let same = about.permissions().mode() & 0o7777 == file.mode
            && file.owner.is_none_or(|it| it.as_raw() == about.uid())
            && file.group.is_none_or(|it| it.as_raw() == about.gid())
            && about.len() == file.contents.len() as u64;
        if !same {
            return Ok(false);
        }
        let mut contents = Zeroizing::new(Vec::with_capacity(file.contents.len() + 1));
        found.take(about.len()).read_to_end(&mut contents)?;
        if contents != file.contents {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_version(parent: &OwnedFd, version: &str, files: &[File]) -> Result<(), TreeError> {
    let at = |name: &str| {
        let name = name.to_owned();
        move |source| TreeError::System { what: "unable to write", name, source }
    };
    mkdirat(parent, version, Mode::from_bits_truncate(0o700))
        .map_err(|errno| system("unable to make", version, errno))?;
    let directory = openat(parent, version, DIRECTORY, Mode::empty())
        .map_err(|errno| system("unable to open", version, errno))?;
    for file in files {
        write(&directory, file).map_err(at(&file.name))?;
    }
    let handle = fs::File::from(directory);
    let open_to_all = fs::Permissions::from_mode(DIRECTORY_MODE);
    handle.set_permissions(open_to_all).and_then(|()| handle.sync_all()).map_err(at(version))
}

fn write(directory: &OwnedFd, file: &File) -> io::Result<()> {
    let mut out = create(directory, &file.name)?;
    // Its own before anything is in it.
    if file.owner.is_some() || file.group.is_some() {
        fchown(&out, file.owner, file.group)?;
    }
    out.set_permissions(fs::Permissions::from_mode(file.mode))?;
    out.write_all(&file.contents)?;
    out.sync_all()
}

fn create(directory: &OwnedFd, name: &str) -> io::Result<fs::File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(fs::File::from(openat(directory, name, flags, Mode::from_bits_truncate(0o600))?))
}

/// Makes the link lead to `version`, in one step for whoever looks.
fn point(parent: &OwnedFd, name: &str, version: &str) -> Result<(), TreeError> {
    let link = format!("{}{LINK}{}", prefix(name), unique());
    symlinkat(version, parent, link.as_str())
        .map_err(|errno| system("unable to make", &link, errno))?;
    let pointed = renameat(parent, link.as_str(), parent, name)
        .map_err(|errno| system("unable to replace", name, errno));
    if pointed.is_err() {
        let _ = unlinkat(parent, link.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    pointed?;
    sync(parent).map_err(|source| TreeError::System {
        what: "unable to write",
        name: name.to_owned(),
        source,
    })
}

/// Removes the files that this plugin writes, and the directory if nothing else is in it.
fn remove_version(parent: &OwnedFd, version: &str) {
    let Ok(directory) = openat(parent, version, DIRECTORY, Mode::empty()) else { return };
    for name in names(&directory) {
        let known = [SVID, KEY, BUNDLE].contains(&name.as_str()) || name.starts_with(FEDERATED);
        if known && let Err(error) = unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir)
        {
            tracing::warn!(plugin_name = super::NAME, name, %error, "Unable to remove a file");
        }
    }
    if let Err(error) = unlinkat(parent, version, UnlinkatFlags::RemoveDir) {
        tracing::warn!(plugin_name = super::NAME, version, %error, "Unable to remove a directory");
    }
}

fn names(directory: &OwnedFd) -> Vec<String> {
    let Ok(mut listing) = Dir::openat(directory.as_fd(), ".", DIRECTORY, Mode::empty()) else {
        return Vec::new();
    };
    let names = listing.iter().flatten().map(|it| it.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "." && name != "..").collect()
}

/// Before the names that belong to the link `name`.
fn prefix(name: &str) -> String {
    format!(".{name}.svid-")
}

fn is_version(name: &str, found: &str) -> bool {
    let rest = found.strip_prefix(&prefix(name));
    rest.is_some_and(|it| it.len() == 32 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn set_mode(parent: &OwnedFd, name: &str) -> Result<(), TreeError> {
    let made = openat(parent, name, DIRECTORY, Mode::empty())
        .map_err(|errno| system("unable to open", name, errno))?;
    let open_to_all = fs::Permissions::from_mode(DIRECTORY_MODE);
    fs::File::from(made).set_permissions(open_to_all).map_err(|source| TreeError::System {
        what: "unable to set the mode of",
        name: name.to_owned(),
        source,
    })
}

fn sync(directory: &OwnedFd) -> io::Result<()> {
    fs::File::from(directory.try_clone()?).sync_all()
}

fn system(what: &'static str, name: &str, errno: Errno) -> TreeError {
    TreeError::System { what, name: name.to_owned(), source: errno.into() }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// What is secret is so by its file's mode.
const DIRECTORY_MODE: u32 = 0o755;
/// In the names of links that are about to take their place.
const LINK: &str = "link-";
