//! What the tests of this crate share.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use steeple_net::https::Trust;
use steeple_pki::{Bundle, Certificate};
use steeple_spiffe::TrustDomain;
use steeple_store::StoreError;
use steeple_store::model::BundleEndpointProfile;

use crate::fetch::{Fetch, FetchBundleError};
use crate::relationship::{Keep, Relationship, Relationships};

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn web(url: &str) -> Relationship {
    Relationship { url: url.to_owned(), profile: BundleEndpointProfile::HttpsWeb }
}

/// An authority that lives for some days.
pub(crate) fn authority(days: u32) -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = params.not_before + std::time::Duration::from_secs(u64::from(days) * 86400);
    Certificate::from_der(params.self_signed(&key).unwrap().der().to_vec()).unwrap()
}

/// A bundle with a hint of so many seconds.
pub(crate) fn hinted(name: &str, seconds: u64) -> Bundle {
    let refresh_hint = std::time::Duration::from_secs(seconds);
    Bundle { refresh_hint, ..Bundle::from_certificates(domain(name), vec![authority(10)]) }
}

/// A datastore in memory, that can be told to fail.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) relationships: Mutex<Relationships>,
    pub(crate) bundles: Mutex<std::collections::BTreeMap<TrustDomain, Bundle>>,
    pub(crate) writes: Mutex<usize>,
    pub(crate) broken: Mutex<bool>,
}

impl Memory {
    fn check(&self) -> Result<(), StoreError> {
        match *self.broken.lock().unwrap() {
            true => Err(StoreError::Unavailable("away".to_owned())),
            false => Ok(()),
        }
    }

    pub(crate) fn follow(&self, name: &str, url: &str) {
        self.relationships.lock().unwrap().insert(domain(name), web(url));
    }

    pub(crate) fn put(&self, bundle: Bundle) {
        self.bundles.lock().unwrap().insert(bundle.trust_domain.clone(), bundle);
    }

    pub(crate) fn writes(&self) -> usize {
        *self.writes.lock().unwrap()
    }
}

#[async_trait]
impl Keep for Memory {
    async fn relationships(&self) -> Result<Relationships, StoreError> {
        self.check()?;
        Ok(self.relationships.lock().unwrap().clone())
    }

    async fn bundle(&self, of: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        self.check()?;
        Ok(self.bundles.lock().unwrap().get(of).cloned())
    }

    async fn set_bundle(&self, bundle: &Bundle) -> Result<(), StoreError> {
        self.check()?;
        *self.writes.lock().unwrap() += 1;
        self.put(bundle.clone());
        Ok(())
    }
}

/// Endpoints that answer as they are told; one whose answers have run out never answers.
#[derive(Default)]
pub(crate) struct Endpoints {
    answers: Mutex<std::collections::HashMap<String, VecDeque<Result<Bundle, FetchBundleError>>>>,
    asked: Mutex<Vec<(String, tokio::time::Instant)>>,
}

impl Endpoints {
    pub(crate) fn answer(&self, url: &str, answer: Result<Bundle, FetchBundleError>) {
        self.answers.lock().unwrap().entry(url.to_owned()).or_default().push_back(answer);
    }

    /// When `url` was asked.
    pub(crate) fn asked(&self, url: &str) -> Vec<tokio::time::Instant> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(of, _)| of == url).map(|(_, at)| *at).collect()
    }
}

#[async_trait]
impl Fetch for Endpoints {
    async fn fetch(
        &self,
        _: &TrustDomain,
        from: &Relationship,
        _: &Trust,
    ) -> Result<Bundle, FetchBundleError> {
        let url = from.url.as_str();
        self.asked.lock().unwrap().push((url.to_owned(), tokio::time::Instant::now()));
        let answer = self.answers.lock().unwrap().get_mut(url).and_then(VecDeque::pop_front);
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// The failure of an endpoint that is not there.
pub(crate) fn nobody() -> FetchBundleError {
    FetchBundleError::Get("https://x".to_owned(), "nobody there".to_owned())
}
