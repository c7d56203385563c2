//! Messages between two agents on one machine: a length, JSON, and files beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What one agent says to the other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The new one asks to take over.
    Hello {
        /// Of the new one.
        version: String,
        /// That both must be of.
        trust_domain: String,
    },
    /// The old one stopped writing; its lock is beside this.
    Welcome {
        /// Of the old one.
        version: String,
    },
    /// It does not give way, or not any more.
    Refused {
        /// Why.
        reason: String,
    },
    /// The new one can serve.
    Ready,
    /// The old one's listening sockets, in the order of the files beside this.
    Sockets(Vec<Socket>),
    /// The new one serves at these paths.
    Serving(Vec<PathBuf>),
}

/// A listening socket.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Socket {
    pub(super) path: PathBuf,
    pub(super) inode: Option<u64>,
    /// Whether `path` is an address of this machine's instead.
    #[serde(default)]
    pub(super) tcp: bool,
}

/// The other agent.
pub(super) struct Wire(UnixStream);

impl Wire {
    /// Speaks over `stream`, if the process at its other end is of our user, or root.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        // The reader of ancillary data does not expect credentials.
        setsockopt(&stream, sockopt::PassCred, &false)?;
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            let text = format!("the process at the other end is of user {uid}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Self(stream))
    }

    /// The process at the other end, if it is visible here.
    pub(super) fn pid(&self) -> Option<i32> {
        self.0.peer_cred().ok()?.pid()
    }

    /// Says something.
    pub(super) async fn send(&self, message: &Message, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let json = serde_json::to_vec(message)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(json);
        let mut sent = 0;
        let sending = async {
            while sent < bytes.len() {
                self.0.writable().await?;
                let files = if sent == 0 { files } else { &[] };
                match self.0.try_io(Interest::WRITABLE, || self.put(&bytes[sent..], files)) {
                    Ok(more) => sent += more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        within(SHORT, sending).await
    }

    fn put(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("too many sockets to hand over"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(sendmsg(self.0.as_fd(), &[IoSlice::new(bytes)], &mut beside, flags)?)
    }

    /// What is said next, with the files beside it; none when the other end is gone.
    pub(super) async fn receive(
        &self,
        patience: Duration,
    ) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        within(patience, self.next()).await
    }

    async fn next(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        loop {
            let missing = match bytes.first_chunk::<4>() {
                None => 4 - bytes.len(),
                Some(length) => {
                    let length = u32::from_be_bytes(*length) as usize;
                    if length > MAX_MESSAGE {
                        return Err(malformed("a message that is too long"));
                    }
                    4 + length - bytes.len()
                }
            };
            if missing == 0 {
                let message = serde_json::from_slice(&bytes[4..])?;
                return Ok(Some((message, files)));
            }
            self.0.readable().await?;
            let mut chunk = vec![0; missing];
            match self.0.try_io(Interest::READABLE, || self.take(&mut chunk, &mut files)) {
                Ok(0) if bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&self, into: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut parts = [IoSliceMut::new(into)];
        let received = recvmsg(self.0.as_fd(), &mut parts, &mut beside, flags)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                files.extend(fds);
            }
        }
        if files.len() > MAX_FILES {
            return Err(malformed("too many files"));
        }
        Ok(received.bytes)
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the other agent says nothing for {} seconds", patience.as_secs()),
        )),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// For a step that takes no work.
pub(super) const SHORT: Duration = Duration::from_secs(20);
const MAX_MESSAGE: usize = 64 * 1024;
/// The kernel's own limit is 253; no agent has more than a handful of sockets.
const MAX_FILES: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        (Wire::new(one).unwrap(), Wire::new(other).unwrap())
    }

    #[tokio::test]
    async fn messages_and_files_arrive_as_they_were_sent() {
        let (one, other) = pair();
        let files: Vec<_> =
            (0..3).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let sockets = Message::Sockets(vec![Socket {
            path: "/run/a b\"c".into(),
            inode: Some(7),
            tcp: false,
        }]);
        let borrowed: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        one.send(&sockets, &borrowed).await.unwrap();
        one.send(&Message::Ready, &[]).await.unwrap();
        let (message, received) = other.receive(SHORT).await.unwrap().unwrap();
        assert_eq!((message, received.len()), (sockets, 3));
        assert!(received.iter().all(|fd| fd.as_raw_fd() > 2));
        let (message, received) = other.receive(SHORT).await.unwrap().unwrap();
        assert_eq!((message, received.len()), (Message::Ready, 0));
        drop(one);
        assert!(other.receive(SHORT).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nonsense_and_silence_are_errors() {
        use tokio::io::AsyncWriteExt as _;
        for nonsense in [&b"\xff\xff\xff\xff{}"[..], b"\0\0\0\x02{}", b"\0\0\0\x01x", b"\0\0\0\x09"]
        {
            let (mut one, other) = UnixStream::pair().unwrap();
            let other = Wire::new(other).unwrap();
            one.write_all(nonsense).await.unwrap();
            drop(one);
            assert!(other.receive(SHORT).await.is_err(), "{nonsense:?}");
        }
        let (_one, other) = pair();
        let error = other.receive(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
