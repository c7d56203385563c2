//! Only so many at once, and of those a share for each user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Semaphore, SemaphorePermit};

/// What all users pass.
pub(super) struct Turnstile {
    running: Semaphore,
    per_uid: Mutex<HashMap<u32, Arc<Semaphore>>>,
    share: usize,
}

impl Turnstile {
    pub(super) fn new(running: usize, share: usize) -> Self {
        Self { running: Semaphore::new(running), per_uid: Mutex::default(), share }
    }

    /// A turn, after those of the same user that came before. A user's own queue holds the excess
    /// of its calls, not the common one.
    pub(super) async fn pass(&self, uid: u32) -> Turn<'_> {
        let mut turn =
            Turn { common: None, share: Some(self.share(uid)), held: false, uid, owner: self };
        if let Some(share) = &turn.share {
            // Neither is ever closed. The permit is given back by hand, since it borrows.
            if let Ok(own) = share.acquire().await {
                own.forget();
            }
            turn.held = true;
        }
        turn.common = self.running.acquire().await.ok();
        turn
    }

    /// How many users are known here.
    #[cfg(test)]
    pub(super) fn users(&self) -> usize {
        self.shares().len()
    }

    fn share(&self, uid: u32) -> Arc<Semaphore> {
        let mut shares = self.shares();
        shares.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.share))).clone()
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<u32, Arc<Semaphore>>> {
        self.per_uid.lock().expect("no code panics while it holds the shares")
    }
}

/// A turn, or the wait for one; a user's share is forgotten with its last one.
pub(super) struct Turn<'t> {
    common: Option<SemaphorePermit<'t>>,
    share: Option<Arc<Semaphore>>,
    held: bool,
    uid: u32,
    owner: &'t Turnstile,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut shares = self.owner.shares();
        self.common = None;
        if let Some(share) = self.share.take()
            && self.held
        {
            share.add_permits(1);
        }
        if shares.get(&self.uid).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.uid);
        }
    }
}
