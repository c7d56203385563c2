//! Sessions with AWS's APIs, one for each account and region.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::{Accounts, Settings};
use super::membership::Membership;
use crate::credentials::{Provider, Source, chain};
use crate::session::{Session, World};

/// How many are kept; beyond that they are made anew.
const MAX_KEPT: usize = 4096;

/// How long a list of nodes is used.
const NODES_TTL: std::time::Duration = std::time::Duration::from_secs(30);

/// What an account's instances in a region are looked up with.
pub(super) struct Client {
    pub(super) session: Session,
    /// The nodes of the clusters in question.
    pub(super) nodes: Membership,
}

/// Makes and keeps clients.
pub(super) struct Clients {
    world: World,
    base: Arc<Provider>,
    role: Option<String>,
    partition: String,
    kept: Mutex<HashMap<(String, String), Arc<Client>>>,
}

impl Clients {
    pub(super) fn new(settings: &Settings, world: World) -> Self {
        let base = match &settings.keys {
            Some(keys) => Provider::new(Source::Static(keys.clone())),
            None => chain(&world.environment),
        };
        Self {
            world,
            base: Arc::new(base),
            role: settings.assume_role.clone(),
            partition: settings.partition.clone(),
            kept: Mutex::default(),
        }
    }

    /// The client for an account in a region, in the role that the settings name, if any.
    pub(super) fn client(&self, account: &str, region: &str) -> Arc<Client> {
        let key = (account.to_owned(), region.to_owned());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&key) {
            return Arc::clone(client);
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        let session = self.session(region, self.role.as_deref().map(|role| (account, role)));
        let client = Arc::new(Client { session, nodes: Membership::new(NODES_TTL, true) });
        kept.insert(key, Arc::clone(&client));
        client
    }

    /// The session in which an organization's accounts are listed.
    pub(super) fn organization(&self, accounts: &Accounts) -> Option<Session> {
        match accounts {
            Accounts::File(_) => None,
            Accounts::Api { account, role, region } => {
                Some(self.session(region, Some((account, role))))
            }
        }
    }

    fn session(&self, region: &str, role: Option<(&str, &str)>) -> Session {
        let credentials = match role {
            None => Arc::clone(&self.base),
            Some((account, role)) => {
                let arn = format!("arn:{}:iam::{account}:role/{role}", self.partition);
                Arc::new(Provider::assuming(Arc::clone(&self.base), arn))
            }
        };
        Session { region: region.to_owned(), credentials, world: self.world.clone() }
    }
}
