//! The file mode mask of the process.

use nix::sys::stat::{Mode, umask};

/// The bits that must be masked: write for the group, everything for others.
const MINIMUM: u32 = 0o027;

/// What the mask was, and what it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tightened {
    was: u32,
    is: u32,
}

/// Masks at least `0027`; a stricter mask that the process was started with stays. Answers what
/// it changed, to be [reported](report) once there is a log.
///
/// Call it once, before any file or socket is made and any thread started: the mask belongs to
/// the whole process.
pub fn tighten() -> Option<Tightened> {
    let minimum = Mode::from_bits_truncate(MINIMUM);
    let current = umask(minimum);
    let wanted = current | minimum;
    umask(wanted);
    let changed = Tightened { was: current.bits(), is: wanted.bits() };
    (changed.was != changed.is).then_some(changed)
}

/// Warns of a mask that was too loose.
pub fn report(tightened: Option<Tightened>) {
    if let Some(Tightened { was, is }) = tightened {
        tracing::warn!("Current umask {was:04o} is too permissive; setting umask {is:04o}");
    }
}
