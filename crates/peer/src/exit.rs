//! Waiting for the end of a process.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::Process;

/// The end of the process that connected. It holds no file descriptor of its own.
pub struct Exit(AsyncFd<Handle>);

impl Exit {
    pub(crate) fn of(process: &Arc<Process>) -> io::Result<Option<Self>> {
        if process.pidfd().is_none() {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the handle's descriptor is the same \
                                       for as long as it lives, which is what it asks for"
        )]
        AsyncFd::with_interest(Handle(Arc::clone(process)), Interest::READABLE)
            .map(|fd| Some(Self(fd)))
    }

    /// Ready once the process ended.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error comes only when the runtime stops, and then all ends.
        self.0.poll_read_ready(cx).map(drop)
    }

    /// Resolves once the process ended.
    pub async fn ended(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exit")
    }
}

struct Handle(Arc<Process>);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.pidfd().expect("looked at when this was made").as_raw_fd()
    }
}
