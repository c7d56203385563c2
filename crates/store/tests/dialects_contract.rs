//! The store's contract on real PostgreSQL and MariaDB servers.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "common/fixture.rs"]
mod common;

use std::sync::Arc;

use steeple_store::Store;
use steeple_testkit::DatabaseKind;

type Fresh = Option<(common::Fixture, Arc<dyn Store>)>;

async fn postgres() -> Fresh {
    let fixture = common::Fixture::new(DatabaseKind::Postgres)?;
    let store = fixture.open().await;
    Some((fixture, store))
}

async fn mariadb() -> Fresh {
    let fixture = common::Fixture::new(DatabaseKind::MariaDb)?;
    let store = fixture.open().await;
    Some((fixture, store))
}

mod on_postgresql {
    steeple_store::store_contract!(crate::postgres, optional);
}

mod on_mariadb {
    steeple_store::store_contract!(crate::mariadb, optional);
}
