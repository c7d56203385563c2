//! The mask belongs to the whole process, so this test has a process of its own.

#![allow(missing_docs)]

use nix::sys::stat::{Mode, umask};
use steeple_runtime::umask::tighten;

#[test]
fn the_mask_becomes_stricter_and_never_looser() {
    for (before, after) in [(0o000, 0o027), (0o022, 0o027), (0o027, 0o027), (0o077, 0o077)] {
        umask(Mode::from_bits_truncate(before));
        tighten();
        let found = umask(Mode::from_bits_truncate(0o027)).bits();
        assert_eq!(found, after, "from {before:04o}");
    }
}
