//! Schema 25, statement by statement as gorm 1 makes it (TD-09, TD-11 to TD-21), and the steps to
//! it from the schemas of earlier releases.

pub(super) mod mysql;
pub(super) mod postgres;
pub(super) mod sqlite;

/// The version that these statements make.
pub(super) const VERSION: i32 = 25;

/// The oldest version that can be migrated from without an older release in between.
pub(super) const OLDEST_MIGRATABLE: i32 = 23;
