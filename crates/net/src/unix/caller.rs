//! A stream that belongs to the process that opened it: it ends when that process does, and
//! nothing that another process wrote is read.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use steeple_peer::{Exit, Peer};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The stream of one caller.
#[derive(Debug)]
pub struct FromCaller {
    stream: UnixStream,
    pid: i32,
    /// None where the kernel has no pidfds: the stream then ends when it is closed.
    exit: Option<Exit>,
    /// Room for the sender's credentials and nothing else, so that files that a caller sends along
    /// are dropped by the kernel.
    control: Vec<u8>,
    /// How much is read at once: more of a caller that sends much.
    room: usize,
}

/// A call of a workload, with its headers, has a few hundred bytes.
const ROOM_FIRST: usize = 1024;
const ROOM_MOST: usize = 16 * 1024;

impl FromCaller {
    pub(super) fn new(stream: UnixStream, caller: &Peer) -> Self {
        // The listener has it set; kernels before 6.16 do not pass that on.
        let _ = setsockopt(&stream, sockopt::PassCred, &true);
        let exit = caller.exit().unwrap_or_else(|error| {
            tracing::warn!(%error, pid = caller.pid(), "Cannot wait for the end of a caller");
            None
        });
        let control = nix::cmsg_space!(UnixCredentials);
        Self { stream, pid: caller.pid(), exit, control, room: ROOM_FIRST }
    }

    /// Reads what one process wrote, and says which.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
        let (stream, control) = (&self.stream, &mut self.control);
        stream.try_io(Interest::READABLE, || {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            loop {
                let mut parts = [IoSliceMut::new(into)];
                match recvmsg::<()>(
                    stream.as_raw_fd(),
                    &mut parts,
                    Some(control.as_mut_slice()),
                    flags,
                ) {
                    Ok(message) => {
                        let sender = message.cmsgs()?.find_map(|part| match part {
                            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
                            _ => None,
                        });
                        return Ok((message.bytes, sender));
                    }
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        })
    }
}

impl AsyncRead for FromCaller {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(exit) = &this.exit
            && exit.poll(cx).is_ready()
        {
            tracing::debug!(pid = this.pid, "Closing the connection of a process that ended");
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            // What is handed out is written over before, so no more of it than a caller that says
            // little needs: a reader's buffer of pages would all become resident.
            let room = buf.remaining().min(this.room);
            let into = buf.initialize_unfilled_to(room);
            if into.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let received = this.receive(into);
            if let Ok((read, _)) = &received {
                this.room = if *read == this.room { ROOM_MOST.min(2 * read) } else { ROOM_FIRST };
            }
            match received {
                Ok((0, _)) => return Poll::Ready(Ok(())),
                // Data that was on its way before the kernel took note of senders has none.
                Ok((read, None | Some(0))) => buf.advance(read),
                Ok((read, Some(sender))) if sender == this.pid => buf.advance(read),
                Ok((_, Some(sender))) => {
                    tracing::warn!(
                        pid = this.pid,
                        sender,
                        "Closing a connection that another process writes to"
                    );
                    return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for FromCaller {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
