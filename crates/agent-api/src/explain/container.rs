//! From a container's id to a process in it, by what the kernel says of every process.

use std::fs;
use std::path::Path;

use tonic::Status;

/// The first process of the container whose id begins with `id`, and how many it has.
pub(super) async fn process_of(id: String) -> Result<(i32, usize), Status> {
    if id.len() < SHORTEST || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Status::invalid_argument(format!(
            "a container is named by at least the first {SHORTEST} characters of its ID"
        )));
    }
    let searching = tokio::task::spawn_blocking(move || {
        let found = processes(Path::new("/proc"), &id);
        found.first().map(|first| (*first, found.len())).ok_or_else(|| {
            Status::not_found(
                "no process of this container is found: it has ended, runs on another node, or the \
                 agent does not see the host's processes",
            )
        })
    });
    searching.await.map_err(|_| Status::internal("the search for the container was interrupted"))?
}

/// Processes in groups, or with mounts, that have the id as a part of their path.
fn processes(proc_root: &Path, id: &str) -> Vec<i32> {
    let pids = fs::read_dir(proc_root).into_iter().flatten().flatten();
    let mut found: Vec<i32> = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let directory = proc_root.join(pid.to_string());
            names(&fs::read_to_string(directory.join("cgroup")).unwrap_or_default(), id)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Whether some part of a path in `groups` is the id, or a name that ends in it
/// (`docker-<id>.scope`), or the id goes on.
fn names(groups: &str, id: &str) -> bool {
    groups.split(['/', '\n', '-', ':', '.']).any(|part| part.starts_with(id))
}

/// As the runtimes' own lists show ids.
const SHORTEST: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_container_is_found_by_its_id_or_the_beginning_of_it() {
        let root = tempfile::tempdir().unwrap();
        for (pid, groups) in [
            ("7", format!("0::/system.slice/docker-{ID}.scope\n")),
            ("5", format!("1:cpu:/kubepods/pod1/{ID}\n")),
            ("6", "0::/user.slice\n".to_owned()),
            ("self", format!("0::/docker/{ID}\n")),
        ] {
            let directory = root.path().join(pid);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("cgroup"), groups).unwrap();
        }
        assert_eq!(processes(root.path(), ID), [5, 7]);
        assert_eq!(processes(root.path(), &ID[..12]), [5, 7]);
        assert!(processes(root.path(), &ID[1..13]).is_empty());
    }

    #[tokio::test]
    async fn what_is_no_id_is_refused() {
        for bad in ["", "0123", "../../../../etc", "a b c d e f g h"] {
            let status = process_of(bad.to_owned()).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
    }
}
