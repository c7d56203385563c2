//! Databases that go away, hang, come back, are full, only read, or stand in each other's way.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "common/fixture.rs"]
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::{Fixture, KINDS, agent, changes, entry, soon};
use steeple_pki::Bundle;
use steeple_spiffe::TrustDomain;
use steeple_store::{
    CaJournal, EntryFilter, EntryUpdate, JoinToken, JoinTokenError, Store, StoreConfig, StoreError,
    open,
};
use steeple_testkit::DatabaseKind;

fn is_unavailable<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(text)) if text.starts_with("datastore-sql: "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_and_comes_back_is_found_again() {
    for kind in KINDS {
        let Some(fixture) = Fixture::private(kind) else { continue };
        let store = fixture.open().await;
        let kept = store.create_entry(entry("/kept")).await.unwrap();
        let mut revision = store.snapshot().await.unwrap().revision;
        assert_eq!(store.health().await, Ok(()));
        for kill in [false, true] {
            if kill {
                fixture.server.kill();
            } else {
                fixture.server.stop();
            }
            assert!(is_unavailable(&store.fetch_entry("x").await));
            assert!(is_unavailable(&store.health().await));
            // Now it is known, and nobody waits any more.
            let started = Instant::now();
            for _ in 0..200 {
                assert!(is_unavailable(&store.create_entry(entry("/lost")).await));
                assert!(is_unavailable(&store.changes_since(&revision).await));
            }
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
            fixture.server.start();
            soon("the database is back", async || store.health().await.is_ok()).await;
            assert_eq!(store.fetch_entry(&kept.entry_id).await.unwrap().as_ref(), Some(&kept));
            let made = store.create_entry(entry(&format!("/after/{kill}"))).await.unwrap();
            let news = changes(&*store, &revision).await;
            let told: Vec<_> = news.entries.into_iter().map(|change| change.entry_id).collect();
            assert_eq!(told, [made.entry_id]);
            revision = news.revision;
        }
        store.close().await;
        assert!(store.fetch_entry("x").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_holds_nobody_for_longer_than_the_deadline() {
    for kind in KINDS {
        let Some(fixture) = Fixture::private(kind) else { continue };
        let config = StoreConfig { busy_deadline: Duration::from_secs(2), ..fixture.config() };
        let store = open(&config).await.unwrap();
        store.create_entry(entry("/kept")).await.unwrap();
        fixture.server.pause();
        let started = Instant::now();
        let hung = store.fetch_entry("x").await;
        assert!(is_unavailable(&hung), "{hung:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        fixture.server.resume();
        soon("it answers again", async || {
            store.count_entries(&EntryFilter::default()).await == Ok(1)
        })
        .await;
        store.create_entry(entry("/more")).await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_at_the_start_is_named() {
    for kind in KINDS {
        let Some(fixture) = Fixture::private(kind) else { continue };
        let config = fixture.config();
        fixture.server.stop();
        let refused = open(&config).await.err().unwrap();
        let text = refused.to_string();
        assert!(is_unavailable::<()>(&Err(refused)), "{text}");
        assert!(text.contains("cannot be reached"), "{text}");
        assert!(!text.contains("spire:spire") && !text.contains("password"), "{text}");
        fixture.server.start();
        let wrong = StoreConfig {
            connection_string: config
                .connection_string
                .replace("password=spire", "password=wr0ng")
                .replace("spire:spire@", "spire:wr0ng@"),
            ..config
        };
        let text = open(&wrong).await.err().unwrap().to_string();
        assert!(text.starts_with("datastore-sql: "), "{text}");
        assert!(!text.contains("wr0ng"), "{text}");
    }
}

#[tokio::test]
async fn a_database_that_only_reads_says_so() {
    for kind in KINDS {
        let Some(fixture) = Fixture::private(kind) else { continue };
        let store = fixture.open().await;
        store.create_entry(entry("/kept")).await.unwrap();
        store.close().await;
        let lock = match kind {
            DatabaseKind::Postgres => "ALTER SYSTEM SET default_transaction_read_only = on",
            // Who may do everything may write all the same.
            DatabaseKind::MariaDb => {
                "REVOKE ALL PRIVILEGES, GRANT OPTION FROM spire@'%'; \
                 GRANT SELECT ON *.* TO spire@'%'"
            }
        };
        let store = fixture.open().await;
        if kind == DatabaseKind::Postgres {
            fixture.server.run_sql("", lock);
            fixture.server.run_sql("", "SELECT pg_reload_conf()");
            soon("it only reads", async || store.create_entry(entry("/w")).await.is_err()).await;
            let refused = store.create_entry(entry("/w")).await;
            assert!(is_unavailable(&refused), "{refused:?}");
        } else {
            fixture.server.run_sql("", lock);
            // Rights of a connection that is open are the old ones; new ones have the new.
            store.close().await;
            let refused = open(&fixture.config()).await;
            if let Ok(store) = refused {
                let text = store.create_entry(entry("/w")).await.unwrap_err().to_string();
                assert!(text.contains("denied"), "{text}");
            }
        }
        assert!(store.fetch_entry("x").await.is_ok() || kind == DatabaseKind::MariaDb);
        store.close().await;
    }
}

/// Transactions that lock the same rows in different orders: the database breaks one off, and it
/// is done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_in_each_others_way_all_succeed() {
    for fixture in Fixture::each() {
        let stores = [fixture.open().await, fixture.open().await];
        let mut entry_ids = Vec::new();
        for number in 0..3 {
            let made = stores[0].create_entry(entry(&format!("/{number}"))).await.unwrap();
            entry_ids.push(made.entry_id);
        }
        let entry_ids = Arc::new(entry_ids);
        let work: Vec<_> = (0..8)
            .map(|worker| {
                let store = Arc::clone(&stores[worker % 2]);
                let entry_ids = Arc::clone(&entry_ids);
                tokio::spawn(async move {
                    for round in 0..10 {
                        let id = &entry_ids[(worker + round) % 3];
                        store.update_entry(id, EntryUpdate::default()).await.unwrap();
                        let path = format!("/agent/{}", round % 3);
                        store.upsert_attested_node(agent(&path)).await.unwrap();
                        let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
                        bundle.refresh_hint = Duration::from_secs(round as u64);
                        store.set_bundle(&bundle).await.unwrap();
                    }
                })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
        let mut total = 0;
        for id in entry_ids.iter() {
            total += stores[0].fetch_entry(id).await.unwrap().unwrap().revision_number;
        }
        assert_eq!(total, 80, "no update was lost");
        for store in stores {
            store.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_token_is_spent_once_between_two_servers() {
    for fixture in Fixture::each() {
        let servers = [fixture.open().await, fixture.open().await];
        let token = JoinToken { token: "t".into(), expires_at: i64::from(u32::MAX) };
        servers[0].create_join_token(token, None).await.unwrap();
        let attempts: Vec<_> = (0..60)
            .map(|number: usize| {
                let server = Arc::clone(&servers[number % 2]);
                tokio::spawn(async move {
                    let now = SystemTime::UNIX_EPOCH;
                    server.attest_with_join_token(agent("/joined"), "t", now).await
                })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error, JoinTokenError::Unknown),
            }
        }
        assert_eq!(won, 1);
        for server in servers {
            server.close().await;
        }
    }
}

/// Two servers append their authorities at the same time; none is lost, also while a third prunes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn authorities_appended_by_two_servers_are_all_there() {
    for fixture in Fixture::each() {
        let servers = [fixture.open().await, fixture.open().await];
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let work: Vec<_> = (0..8)
            .map(|number: usize| {
                let server = Arc::clone(&servers[number % 2]);
                let trust_domain = trust_domain.clone();
                tokio::spawn(async move {
                    let mut bundle = Bundle::new(trust_domain.clone());
                    let key = steeple_pki::PrivateKey::generate(steeple_pki::KeyType::EcP256);
                    bundle.jwt_authorities.push(steeple_pki::JwtAuthority {
                        key_id: format!("key{number}"),
                        public_key: key.unwrap().public_key().clone(),
                        expires_at: None,
                        tainted: false,
                    });
                    server.append_bundle(&bundle).await.unwrap();
                    server.append_bundle(&bundle).await.unwrap();
                    let _would_prune_all =
                        server.prune_bundle(&trust_domain, SystemTime::UNIX_EPOCH).await;
                })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
        let bundle = servers[1].fetch_bundle(&trust_domain).await.unwrap().unwrap();
        let keys: BTreeSet<_> = bundle.jwt_authorities.iter().map(|it| it.key_id.clone()).collect();
        assert_eq!(keys.len(), 8, "{keys:?}");
        assert_eq!(bundle.sequence_number, 7, "one step for each that was not the first");
        for server in servers {
            server.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pruning_by_two_servers_at_once_is_pruning_once() {
    for fixture in Fixture::each() {
        let servers = [fixture.open().await, fixture.open().await];
        for number in 0..10 {
            let old = steeple_store::NewEntry { expires_at: 10, ..entry(&format!("/{number}")) };
            servers[0].create_entry(old).await.unwrap();
            let journal = CaJournal {
                id: 0,
                data: Vec::new(),
                active_x509_authority_id: format!("a{number}"),
                active_jwt_authority_id: String::new(),
            };
            servers[number % 2].set_ca_journal(journal).await.unwrap();
            let token = JoinToken { token: format!("t{number}"), expires_at: 10 };
            servers[0].create_join_token(token, None).await.unwrap();
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let [one, two] = &servers;
        let (a, b) = tokio::join!(one.prune_entries(now), two.prune_entries(now));
        assert_eq!(a.unwrap().len() + b.unwrap().len(), 10);
        let (a, b) = tokio::join!(one.prune_ca_journals(100), two.prune_ca_journals(100));
        assert_eq!(a.unwrap() + b.unwrap(), 10);
        let (a, b) = tokio::join!(one.prune_join_tokens(now), two.prune_join_tokens(now));
        assert_eq!(a.unwrap() + b.unwrap(), 10);
        let later = SystemTime::now() + Duration::from_secs(60);
        let (a, b) = tokio::join!(one.prune_events(later), two.prune_events(later));
        a.unwrap();
        b.unwrap();
        assert_eq!(fixture.sql("SELECT COUNT(*) FROM registered_entries_events"), "1");
        for server in servers {
            server.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_share_few_connections() {
    for fixture in Fixture::each() {
        let config = StoreConfig {
            max_open_conns: Some(2),
            max_idle_conns: Some(0),
            conn_max_lifetime: Some(Duration::from_millis(50)),
            ..fixture.config()
        };
        let store = open(&config).await.unwrap();
        let work: Vec<_> = (0..40)
            .map(|number| {
                let store: Arc<dyn Store> = Arc::clone(&store);
                tokio::spawn(async move {
                    store.create_entry(entry(&format!("/{number}"))).await.unwrap();
                    store.count_entries(&EntryFilter::default()).await.unwrap();
                })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
        assert_eq!(store.count_entries(&EntryFilter::default()).await, Ok(40));
        store.close().await;
    }
}

#[tokio::test]
async fn tls_is_used_and_checked() {
    for fixture in Fixture::each() {
        let tls = fixture.server.dir().join("tls");
        let (port, name) = (fixture.server.port(), &fixture.name);
        let file = |name: &str| tls.join(name).display().to_string();
        let base = fixture.config();
        // Someone else's CA: the server's certificate itself, which is none.
        let (good, bad) = match fixture.server.kind() {
            DatabaseKind::Postgres => {
                let with = |host: &str, ca: &str, mode: &str| StoreConfig {
                    connection_string: format!(
                        "host={host} port={port} user=spire password=spire dbname={name} \
                         sslmode={mode} sslrootcert={}",
                        file(ca)
                    ),
                    ..base.clone()
                };
                (
                    vec![
                        with("localhost", "ca.pem", "verify-full"),
                        with("127.0.0.1", "ca.pem", "verify-ca"),
                        with("127.0.0.1", "ca.pem", "require"),
                    ],
                    vec![with("localhost", "client.pem", "verify-full")],
                )
            }
            DatabaseKind::MariaDb => {
                let with = |parameters: &str, ca: Option<&str>| StoreConfig {
                    connection_string: format!(
                        "spire:spire@tcp(localhost:{port})/{name}?parseTime=true{parameters}"
                    ),
                    tls: steeple_store::TlsFiles {
                        root_ca: ca.map(|ca| tls.join(ca)),
                        ..Default::default()
                    },
                    ..base.clone()
                };
                (
                    vec![with("", Some("ca.pem")), with("&tls=skip-verify", None)],
                    vec![with("", Some("client.pem")), with("&tls=true", None)],
                )
            }
        };
        for config in good {
            let store = open(&config).await.unwrap();
            store.close().await;
        }
        for config in bad {
            let refused = open(&config).await.err().unwrap();
            assert!(is_unavailable::<()>(&Err(refused.clone())), "{refused}");
            assert!(refused.to_string().to_lowercase().contains("certificate"), "{refused}");
        }
    }
}
