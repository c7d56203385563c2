//! The `spire-agent` program.
fn main() {}
