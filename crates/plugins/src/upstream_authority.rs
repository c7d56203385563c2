//! Built-in upstream authorities.

pub mod disk;
pub mod spire;
