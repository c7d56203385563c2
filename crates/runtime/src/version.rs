//! The version that the process reports.

/// The version string: SPIRE's release that we are compatible with, then our own.
///
/// It starts with `1.15.` because SPIRE compares the major and minor number that it finds in
/// the database with its own, and refuses one that is further than a minor release away.
pub const VERSION: &str = concat!("1.15.0-steeple-", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_with_the_release_that_spire_accepts_in_its_database() {
        assert!(VERSION.starts_with("1.15.0-steeple-"));
    }
}
