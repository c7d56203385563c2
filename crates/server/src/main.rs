//! The `spire-server` program.
fn main() {}
