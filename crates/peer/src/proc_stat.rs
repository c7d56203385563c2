//! The start time of a process, out of `/proc/<pid>/stat`.

use std::fs;

use crate::error::StartTimeError;

/// The start time is the 22nd field; the two before the name's end are the id and the name.
const START_TIME_AFTER_NAME: usize = 22 - 3;

/// When process `pid` started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Result<u64, StartTimeError> {
    let stat = fs::read(format!("/proc/{pid}/stat")).map_err(StartTimeError::Read)?;
    parse_start_time(&stat).ok_or(StartTimeError::Malformed)
}

/// The name of a process is its own choice and may hold anything, parentheses and spaces too; the
/// *last* closing parenthesis ends it.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let after_name = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    after_name.split_ascii_whitespace().nth(START_TIME_AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_imitates_the_fields_does_not_move_the_start_time() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["sh", "a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 666 20 (b", "é é"] {
            let stat = format!("77 ({name}) {tail}");
            assert_eq!(parse_start_time(stat.as_bytes()), Some(4242), "{name}");
        }
        assert_eq!(parse_start_time(b"77 (\xff\xfe) S"), None);
        assert_eq!(parse_start_time(b""), None);
    }

    #[test]
    fn our_own_start_time_is_the_same_each_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
    }
}
