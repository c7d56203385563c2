//! Whether a user or group id is somebody's.
//!
//! In a user namespace that maps only some ids, the kernel shows every other one as the overflow
//! id, which is also the id of `nobody`. Who has it may be anybody.

use std::fs;
use std::sync::OnceLock;

/// The ids that mean "not known here"; none where every id is mapped.
struct Overflow {
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Whether both are ids of somebody.
pub(crate) fn is_known(uid: u32, gid: u32) -> bool {
    static OVERFLOW: OnceLock<Overflow> = OnceLock::new();
    let overflow = OVERFLOW.get_or_init(|| Overflow {
        uid: overflow(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid")),
        gid: overflow(&read("/proc/self/gid_map"), &read("/proc/sys/kernel/overflowgid")),
    });
    overflow.uid != Some(uid) && overflow.gid != Some(gid)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn overflow(map: &str, id: &str) -> Option<u32> {
    let mapped: u64 = map
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok())
        .sum();
    // Without namespaces there is no map, and with the first one all but -1 are mapped.
    let whole = map.is_empty() || mapped >= u64::from(u32::MAX);
    if whole { None } else { Some(id.trim().parse().unwrap_or(65_534)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_somebody_only_where_every_id_is_mapped() {
        assert_eq!(overflow("         0          0 4294967295\n", "65534\n"), None);
        assert_eq!(overflow("", "65534\n"), None);
        assert_eq!(overflow("0 100000 65536\n", "65534\n"), Some(65_534));
        assert_eq!(overflow("0 1000 1\n1 100000 65536\n", "99\n"), Some(99));
        assert_eq!(overflow("0 1000 1\n", "garbage"), Some(65_534));
    }
}
