//! Which container, and which pod, a process is in: what the kernel says of it in `/proc`.
//!
//! `/proc/<pid>/cgroup` is the kernel's word; a process cannot write it, though a user who was given
//! a part of the cgroup tree may name groups in it as he likes. `/proc/<pid>/mountinfo` is whatever
//! the owner of the mount namespace mounted. It is asked last, and only of processes in our own
//! user namespace: anybody may make a user namespace and mount in it what looks like a container.
//! What tells an answer from the other is [`Container::source`] and [`Container::user_slice`]; a
//! plugin whose runtime can say more should ask it.

mod cgroup;
mod legacy;
mod matchers;
mod mountinfo;
mod names;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use steeple_plugin::Code;

pub(crate) use cgroup::{Cgroup, read as cgroups};
pub(crate) use matchers::Matchers;
use names::{Conflict, Names};
pub(crate) use names::{shorten, user_slice};

/// How containers are looked for. Blocks; call it where that is allowed.
#[derive(Clone, Debug)]
pub(crate) struct Locator {
    proc_root: PathBuf,
    plugin: &'static str,
    pods: bool,
    verbose: bool,
}

/// A container, by the names of the groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// 64 hexadecimal digits, or what a pattern of the operator's matched.
    pub(crate) id: String,
    /// The pod, with dashes; none unless pods were asked for and the name says one.
    pub(crate) pod_uid: Option<String>,
    /// Who says so.
    pub(crate) source: Source,
    /// The user in whose part of the cgroup tree the container is (`user-1000.slice`), which the
    /// user's own programs may have named.
    pub(crate) user_slice: Option<u32>,
}

/// Where a container's id was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the groups of the process.
    Cgroup,
    /// In the mounts that it sees, which whoever made its mount namespace may have arranged.
    Mounts,
}

/// Why it is not known which container a process is in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocateError {
    #[error("unable to obtain cgroups: {0}")]
    Cgroups(#[from] cgroup::CgroupError),
    #[error("failed to parse mount info at {path:?}: {error}")]
    Mounts { path: PathBuf, error: mountinfo::MountInfoError },
    #[error("{0}")]
    Conflict(#[from] Conflict),
}

impl LocateError {
    /// The code that SPIRE's plugins answer with.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Cgroups(_) | Self::Mounts { .. } => Code::Internal,
            Self::Conflict(_) => Code::FailedPrecondition,
        }
    }
}

impl Locator {
    /// Looks in `proc_root` (`/proc`) for containers, for the workload attestor `plugin`.
    pub(crate) fn new(proc_root: &Path, plugin: &'static str) -> Self {
        Self { proc_root: proc_root.to_owned(), plugin, pods: false, verbose: false }
    }

    /// Looks for the pod, too.
    #[must_use]
    pub(crate) fn with_pods(mut self) -> Self {
        self.pods = true;
        self
    }

    /// Logs every line that is looked at.
    #[must_use]
    pub(crate) fn verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }

    /// The container of `pid`; none when the process is in none, or is no more.
    ///
    /// # Errors
    /// When the process table cannot be read, or names more than one container or pod.
    pub(crate) fn locate(&self, pid: i32) -> Result<Option<Container>, LocateError> {
        self.locate_with_groups(pid).map(|(found, _)| found)
    }

    /// As [`locate`](Self::locate), with all groups of the process.
    ///
    /// # Errors
    /// As [`locate`](Self::locate).
    pub(crate) fn locate_with_groups(
        &self,
        pid: i32,
    ) -> Result<(Option<Container>, Vec<Cgroup>), LocateError> {
        let groups = match cgroup::read(&self.proc_root, pid) {
            Ok(groups) => groups,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        self.log_groups(&groups);
        let mut names = Names::new(self.pods);
        for group in &groups {
            names.add(&group.path)?;
        }
        let found = match names.found(Source::Cgroup) {
            Some(found) => Some(found),
            None => self.locate_by_mounts(pid)?,
        };
        Ok((found, groups))
    }

    /// As [`locate`](Self::locate) with `use_new_container_locator = false` of the `k8s` plugin:
    /// by the groups alone.
    ///
    /// # Errors
    /// As [`locate`](Self::locate); also when the process is no more.
    pub(crate) fn locate_legacy(&self, pid: i32) -> Result<Option<Container>, LocateError> {
        Ok(legacy::find(&cgroup::read(&self.proc_root, pid)?)?)
    }

    fn locate_by_mounts(&self, pid: i32) -> Result<Option<Container>, LocateError> {
        let path = self.proc_root.join(pid.to_string()).join("mountinfo");
        let failed = |error| LocateError::Mounts { path: path.clone(), error };
        let mut names = Names::new(self.pods);
        let mut index = 0;
        let read = mountinfo::read(&path, |mount| {
            index += 1;
            if self.verbose {
                tracing::debug!(
                    plugin_name = self.plugin,
                    plugin_type = "WorkloadAttestor",
                    index,
                    r#type = mount.fs_type,
                    root = %names::shorten(mount.root),
                    "PID mount enumerated"
                );
            }
            // The whole tree names nothing.
            let cgroup = matches!(mount.fs_type, "cgroup" | "cgroup2") && mount.root != "/";
            if cgroup { names.add(mount.root) } else { Ok(()) }
        });
        match read {
            Ok(conflict) => conflict?,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let Some(found) = names.found(Source::Mounts) else { return Ok(None) };
        if !self.shares_our_user_namespace(pid) {
            tracing::warn!(
                plugin_name = self.plugin,
                plugin_type = "WorkloadAttestor",
                pid,
                "Mounts that name a container are not believed: the process is in a user \
                 namespace of its own"
            );
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Who mounts in our own user namespace has a right to that, which others give themselves by
    /// making one. A process cannot come back from one, nor bring its mounts.
    fn shares_our_user_namespace(&self, pid: i32) -> bool {
        let namespace = |process: &str| -> io::Result<PathBuf> {
            fs::read_link(self.proc_root.join(process).join("ns/user"))
        };
        match (namespace(&pid.to_string()), namespace("self")) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            _ => false,
        }
    }

    fn log_groups(&self, groups: &[Cgroup]) {
        if !self.verbose {
            return;
        }
        for (index, group) in groups.iter().enumerate() {
            tracing::debug!(
                plugin_name = self.plugin,
                plugin_type = "WorkloadAttestor",
                index = index + 1,
                total = groups.len(),
                path = %names::shorten(&group.path),
                "PID cgroup enumerated"
            );
        }
    }
}
