//! `/proc/<pid>/cgroup`: a line `hierarchy:controllers:path` for each hierarchy.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use steeple_runtime::gotext;

use super::names::shorten;

/// Dozens of hierarchies of the longest paths there may be take less.
const MAX_SIZE: u64 = 1024 * 1024;

/// A group that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// The number of the hierarchy; 0 is the unified one (version 2).
    pub(crate) hierarchy: String,
    /// The path as seen from our own cgroup namespace.
    pub(crate) path: String,
}

/// Why the groups of a process are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("{operation} proc/{pid}/cgroup: {}", gotext::system(source))]
    Io { operation: &'static str, pid: i32, source: io::Error },
    #[error(
        "invalid cgroup entry, contains {fields} colon separated fields but expected at least 3: \
         {:?}",
        shorten(line)
    )]
    Malformed { fields: usize, line: String },
    #[error("proc/{pid}/cgroup is larger than {MAX_SIZE} bytes")]
    TooLarge { pid: i32 },
}

impl CgroupError {
    /// Whether there is no such process.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The groups of `pid`.
///
/// # Errors
/// When there is no such process, or the file is not as expected.
pub(crate) fn read(proc_root: &Path, pid: i32) -> Result<Vec<Cgroup>, CgroupError> {
    let io = |operation| move |source| CgroupError::Io { operation, pid, source };
    let file = File::open(proc_root.join(pid.to_string()).join("cgroup")).map_err(io("open"))?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(io("read"))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(CgroupError::TooLarge { pid });
    }
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Result<Vec<Cgroup>, CgroupError> {
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(3, ':');
            match (fields.next(), fields.next(), fields.next()) {
                (Some(hierarchy), Some(_), Some(path)) => {
                    Ok(Cgroup { hierarchy: hierarchy.to_owned(), path: path.to_owned() })
                }
                (_, second, _) => Err(CgroupError::Malformed {
                    fields: 1 + usize::from(second.is_some()),
                    line: line.to_owned(),
                }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_hold_colons() {
        let groups = parse("12:cpu,cpuacct:/a:b:c\n0::/\n").unwrap();
        let group = |hierarchy: &str, path: &str| Cgroup {
            hierarchy: hierarchy.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(groups, [group("12", "/a:b:c"), group("0", "/")]);
    }

    #[test]
    fn a_line_with_too_few_fields_is_shown() {
        let text = |line| parse(line).unwrap_err().to_string();
        assert_eq!(
            text("11:hugetlb"),
            "invalid cgroup entry, contains 2 colon separated fields but expected at least 3: \
             \"11:hugetlb\""
        );
        assert!(text("\n").contains("contains 1 colon separated"));
        assert!(text(&"x".repeat(100_000)).len() < 500);
    }
}
