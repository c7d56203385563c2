//! A clock that jumps, and a machine that slept.

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use steeple_agent_api::admin::AgentStatus as _;
use steeple_agent_core::jump::{ClockWatch, Jump};
use steeple_pki::x509::Certificate;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Manager, SUBSYSTEM};

/// Between two looks at the clocks.
const LOOK: Duration = Duration::from_secs(1);

impl Manager {
    /// Looks at the clocks, and has every loop look at its plans when they went apart.
    pub(super) async fn clock_loop(&self) -> Infallible {
        let (mut clocks, begun) = (ClockWatch::default(), Instant::now());
        loop {
            match clocks.look(self.clock.now(), begun.elapsed()) {
                None => {}
                Some(Jump::Forward(by)) => {
                    warn!(
                        subsystem_name = SUBSYSTEM,
                        seconds = by.as_secs(),
                        "The clock went forward: it was set, or this machine slept; looking at every SVID"
                    );
                    // Whoever was on the other end has given up by now.
                    self.server.release().await;
                    self.jolt();
                }
                Some(Jump::Back(_)) => {
                    self.clock_was_set_back(self.clock.now());
                    self.jolt();
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What was issued in a time that is yet to come again is replaced: nobody would accept it.
    fn clock_was_set_back(&self, now: SystemTime) {
        let early = |leaf: &Certificate| leaf.not_before() > now;
        let x509_svids = self
            .cache
            .discard(&self.cache.signed_entries(), |held| held.leaf().as_ref().is_some_and(early));
        let jwt_svids = self.jwt.forget_issued_after(now);
        warn!(
            subsystem_name = SUBSYSTEM,
            x509_svids, jwt_svids, "The clock was set back; replacing SVIDs that are not valid yet"
        );
        // Once: if the next one is of the future too, it is this clock that is wrong.
        if self.credentials.svid().first().is_some_and(early) {
            info!(
                subsystem_name = SUBSYSTEM,
                "The agent's own SVID is not valid yet; replacing it"
            );
            self.credentials.force_rotation();
        }
    }

    fn jolt(&self) {
        self.jolts.send_modify(|count| *count += 1);
        self.cache.nudge();
        self.hints.notify_one();
    }

    /// Sleeps; gives whether a jump of the clock ended that.
    pub(super) async fn nap(jolts: &mut watch::Receiver<u64>, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            Ok(()) = jolts.changed() => true,
        }
    }
}
