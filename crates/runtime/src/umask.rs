//! The file mode mask of the process.

use nix::sys::stat::{Mode, umask};

/// The bits that must be masked: write for the group, everything for others.
const MINIMUM: u32 = 0o027;

/// Masks at least `0027`; a stricter mask that the process was started with stays.
///
/// Call it once, before any file or socket is made and any thread started: the mask belongs to
/// the whole process.
pub fn tighten() {
    let minimum = Mode::from_bits_truncate(MINIMUM);
    let current = umask(minimum);
    let wanted = current | minimum;
    if wanted == current {
        umask(current);
        return;
    }
    umask(wanted);
    tracing::warn!(
        "Current umask {:04o} is too permissive; setting umask {:04o}",
        current.bits(),
        wanted.bits()
    );
}
