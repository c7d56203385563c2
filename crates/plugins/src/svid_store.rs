//! SVID stores.

pub mod disk;
