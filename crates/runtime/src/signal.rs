//! Signals, as the daemons use them.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::drain::Watcher;
use crate::log::LogHandle;

/// A signal that can be awaited again and again.
#[derive(Debug)]
pub struct Received(Signal);

impl Received {
    /// Waits for the next delivery; signals that arrive meanwhile are merged into one.
    pub async fn recv(&mut self) {
        if self.0.recv().await.is_none() {
            // The stream ends only with the runtime: there is nothing more to wait for.
            std::future::pending::<()>().await;
        }
    }
}

/// Resolves at the first SIGINT or SIGTERM.
///
/// Both are caught from the moment of this call, not of the first poll.
///
/// # Panics
/// When called outside a tokio runtime, or when the handler cannot be installed.
pub fn shutdown() -> impl Future<Output = ()> + Send {
    let mut interrupt = listen(SignalKind::interrupt()).expect("SIGINT can be caught");
    let mut terminate = listen(SignalKind::terminate()).expect("SIGTERM can be caught");
    async move {
        tokio::select! {
            () = interrupt.recv() => (),
            () = terminate.recv() => (),
        }
    }
}

/// Catches SIGUSR1 from now on.
///
/// # Errors
/// When the handler cannot be installed.
pub fn on_usr1() -> io::Result<Received> {
    listen(SignalKind::user_defined1())
}

/// Catches SIGUSR2 from now on.
///
/// # Errors
/// When the handler cannot be installed.
pub fn on_usr2() -> io::Result<Received> {
    listen(SignalKind::user_defined2())
}

/// Reopens the log file at each of `signals` (SIGUSR2) until drained; a failure is logged to
/// the old file.
pub async fn reopen_log(log: LogHandle, mut signals: Received, mut drain: Watcher) {
    loop {
        tokio::select! {
            () = signals.recv() => {
                if let Err(error) = log.reopen() {
                    tracing::error!(%error, "failed to rotate log after signal");
                }
            }
            () = drain.signalled() => return,
        }
    }
}

fn listen(kind: SignalKind) -> io::Result<Received> {
    signal(kind).map(Received)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_signal_sent_before_the_first_poll_is_not_lost() {
        let mut usr1 = on_usr1().unwrap();
        raise(Signal::SIGUSR1).unwrap();
        usr1.recv().await;
    }

    #[tokio::test]
    async fn sigterm_resolves_shutdown() {
        let shutdown = shutdown();
        raise(Signal::SIGTERM).unwrap();
        shutdown.await;
    }
}
