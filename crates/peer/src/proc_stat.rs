//! What `/proc/<pid>/stat` says: when a process started, and which run of a program it is.

use std::fs::{self, File};
use std::io::{self, Read as _};

use crate::error::StartTimeError;

/// Fields are counted from 1; the two before the name's end are the id and the name.
const AFTER_NAME: usize = 3;
const START_TIME: usize = 22 - AFTER_NAME;
const START_CODE: usize = 26 - AFTER_NAME;
const START_STACK: usize = 28 - AFTER_NAME;

/// Room for the line: 52 numbers of at most 20 digits, and a name.
const LINE: usize = 2048;

/// A process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    /// Where the kernel put the program's code and stack: with every execution somewhere else.
    /// None where the kernel does not tell us.
    pub(crate) image: Option<(u64, u64)>,
}

/// Looks at process `pid`.
pub(crate) fn stat(pid: i32) -> Result<Stat, StartTimeError> {
    let path = format!("/proc/{pid}/stat");
    let mut room = [0; LINE];
    match line(&path, &mut room).map_err(StartTimeError::Read)? {
        Some(line) => parse(line),
        None => parse(&fs::read(path).map_err(StartTimeError::Read)?),
    }
    .ok_or(StartTimeError::Malformed)
}

/// The one line of the file at `path`, in one reading; nothing if it does not fit.
fn line<'r>(path: &str, room: &'r mut [u8; LINE]) -> io::Result<Option<&'r [u8]>> {
    let read = loop {
        match File::open(path)?.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    // The kernel gives all of it if there is room, and ends it so.
    Ok(Some(&room[..read]).filter(|line| line.ends_with(b"\n")))
}

/// The name of a process is its own choice and may hold anything, parentheses and spaces too; the
/// *last* closing parenthesis ends it.
fn parse(stat: &[u8]) -> Option<Stat> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let after_name = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = after_name.split_ascii_whitespace();
    let start_time = fields.nth(START_TIME)?.parse().ok()?;
    let mut number = |from: usize, to: usize| fields.nth(to - from - 1)?.parse::<u64>().ok();
    let code = number(START_TIME, START_CODE);
    let stack = number(START_CODE, START_STACK);
    // Who may not know is told 1 and 0.
    let image = code.zip(stack).filter(|&(code, stack)| code > 1 && stack > 0);
    Some(Stat { start_time, image })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_imitates_the_fields_does_not_move_the_start_time() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21 22 4096 24 9000";
        for name in ["sh", "a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 666 20 (b", "é é"] {
            let stat = format!("77 ({name}) {tail}");
            let expected = Stat { start_time: 4242, image: Some((4096, 9000)) };
            assert_eq!(parse(stat.as_bytes()), Some(expected), "{name}");
        }
        assert_eq!(parse(b"77 (\xff\xfe) S"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn our_own_start_time_is_the_same_each_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(stat(pid).unwrap(), stat(pid).unwrap());
        assert!(stat(pid).unwrap().image.is_some());
    }

    #[test]
    fn a_line_is_read_at_once_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stat");
        let read = |contents: &[u8]| {
            fs::write(&path, contents).unwrap();
            let mut room = [0; LINE];
            line(path.to_str().unwrap(), &mut room).unwrap().map(<[u8]>::to_vec)
        };
        assert_eq!(read(b"7 (sh) S\n").as_deref(), Some(&b"7 (sh) S\n"[..]));
        assert_eq!(read(b"7 (sh) S"), None);
        assert_eq!(read(&[b'1'; LINE + 1]), None);
        assert_eq!(read(b""), None);
    }

    #[test]
    fn what_the_kernel_hides_is_not_known() {
        let hidden = "7 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21 22 1 1 0";
        assert_eq!(parse(hidden.as_bytes()), Some(Stat { start_time: 4242, image: None }));
        let short = "7 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242";
        assert_eq!(parse(short.as_bytes()), Some(Stat { start_time: 4242, image: None }));
    }
}
