//! A conversation with a TPM: commands with authorisations, and what was loaded and must go again.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::device::{Device, DeviceError, HEADER};
use crate::hmac;
use crate::response::ResponseCode;
use crate::spec::RS_PW;
use crate::wire::{Malformed, Reader, Writer};

/// Why a TPM did not do something.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be talked to.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It refuses.
    #[error("{command}: {code}")]
    Refused {
        /// The command, by its name in the standard.
        command: &'static str,
        /// Why.
        code: ResponseCode,
    },
    /// Its answer makes no sense.
    #[error("{0}: the TPM's answer is malformed")]
    Malformed(&'static str),
    /// Somebody else of this process has used it for too long.
    #[error("the TPM at {0} is in use")]
    Busy(String),
    /// What the TPM says of itself does not fit.
    #[error("{0}")]
    Unfit(String),
    /// The thread that talks to it ended.
    #[error("talking to the TPM ended early")]
    Ended,
}

impl TpmError {
    /// The TPM's refusal, if it is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether another try may do better: the TPM is away, late or busy.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Device(_) | Self::Busy(_) => true,
            Self::Refused { code, .. } => code.is_passing() || code.is_full(),
            Self::Malformed(_) | Self::Unfit(_) | Self::Ended => false,
        }
    }
}

/// Something in the TPM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub u32);

/// What allows the use of something in the TPM.
#[derive(Clone, Copy)]
pub enum Auth<'a> {
    /// Its password; most have the empty one. That of a hierarchy is shown by an HMAC session, and
    /// so not said.
    Password(&'a [u8]),
    /// A policy session that has come to hold; it ends with the command.
    Policy(Handle),
}

impl Auth<'_> {
    /// The empty password.
    pub const NONE: Self = Self::Password(&[]);
}

/// A conversation with a TPM. When it ends, everything that it loaded is flushed.
#[derive(Debug)]
pub struct Tpm {
    device: Device,
    deadline: Instant,
    /// Objects and sessions that are to be flushed.
    loaded: Vec<Handle>,
    /// What others left was cleared away already.
    cleared: bool,
    /// The device failed, and asking it for more would only take time.
    lost: bool,
}

/// A command without its header.
pub(crate) struct Command<'a> {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    pub(crate) handles: &'a [u32],
    pub(crate) auths: &'a [Auth<'a>],
    pub(crate) parameters: Vec<u8>,
    /// The answer begins with a handle.
    pub(crate) loads: bool,
}

/// A successful answer.
pub(crate) struct Answer {
    pub(crate) handle: Handle,
    pub(crate) parameters: Vec<u8>,
}

impl Tpm {
    /// Begins a conversation with the TPM at `path` that has to end before `deadline`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path, deadline: Instant) -> Result<Self, TpmError> {
        let device = Device::open(path)?;
        Ok(Self { device, deadline, loaded: Vec::new(), cleared: false, lost: false })
    }

    /// Sends a command as it is and gives the answer as it is.
    ///
    /// # Errors
    /// When the TPM does not answer.
    pub fn command(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let answer = self.device.command(command, self.deadline);
        self.lost |= answer.is_err();
        Ok(answer?)
    }

    /// Flushes a key or session.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush(&mut self, handle: Handle) -> Result<(), TpmError> {
        self.loaded.retain(|loaded| *loaded != handle);
        self.flush_any(handle)
    }

    fn flush_any(&mut self, handle: Handle) -> Result<(), TpmError> {
        let parameters = Writer::new().u32(handle.0).finish();
        let command =
            Command { name: "TPM2_FlushContext", code: 0x165, parameters, ..Command::NONE };
        self.call(&command).map(drop)
    }

    /// The session ended by itself.
    pub(crate) fn forget(&mut self, handle: Handle) {
        self.loaded.retain(|loaded| *loaded != handle);
    }

    pub(crate) fn call(&mut self, command: &Command<'_>) -> Result<Answer, TpmError> {
        let password = hmac::password(command);
        loop {
            let (bytes, pending) = match password {
                None => (command.encode(), None),
                Some(password) => {
                    let (bytes, pending) = self.protect(command, password)?;
                    (bytes, Some(pending))
                }
            };
            let answer = self.command(&bytes)?;
            let malformed = |_: Malformed| TpmError::Malformed(command.name);
            let mut header = Reader::new(&answer);
            let tag = header.u16().map_err(malformed)?;
            header.take(4).map_err(malformed)?;
            let code = ResponseCode(header.u32().map_err(malformed)?);
            if let Some(pending) = &pending {
                self.settle(pending, code.0 != 0)?;
            }
            if code.0 == 0 {
                if let Some(pending) = &pending {
                    pending.check(&answer, command.loads)?;
                }
                let answer = Answer::decode(&answer[HEADER..], tag, command).map_err(malformed)?;
                if command.loads {
                    self.loaded.push(answer.handle);
                }
                return Ok(answer);
            }
            if code.is_full() && !self.cleared && !self.device.is_managed() {
                self.cleared = true;
                self.clear()?;
            } else if code.is_passing() && Instant::now() + PAUSE < self.deadline {
                thread::sleep(PAUSE);
            } else {
                return Err(TpmError::Refused { command: command.name, code });
            }
        }
    }

    /// Makes room where no resource manager does: whatever fills the TPM was left by somebody who
    /// died, perhaps by us.
    fn clear(&mut self) -> Result<(), TpmError> {
        tracing::warn!(path = %self.device.path().display(), "Flushing what others left in the TPM");
        for first in [TRANSIENT_FIRST, LOADED_SESSION_FIRST] {
            for handle in self.handles(first)? {
                if !self.loaded.contains(&handle) {
                    self.flush_any(handle)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // The resource manager does it when the device is closed.
        if self.device.is_managed() || self.lost || self.loaded.is_empty() {
            return;
        }
        // What failed for lack of time must not stay for lack of time.
        self.deadline = self.deadline.max(Instant::now() + FLUSH_GRACE);
        while let Some(handle) = self.loaded.pop() {
            if let Err(error) = self.flush_any(handle) {
                tracing::debug!(%error, "Could not flush a TPM handle");
                if self.lost {
                    return;
                }
            }
        }
    }
}

impl Command<'_> {
    pub(crate) const NONE: Self =
        Self { name: "", code: 0, handles: &[], auths: &[], parameters: Vec::new(), loads: false };

    /// Wiped after use, since it may have passwords in it.
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let auths = Zeroizing::new(self.auths.iter().fold(Writer::new(), put_auth).finish());
        let mut body = Writer::new().u32(self.code);
        for handle in self.handles {
            body = body.u32(*handle);
        }
        if !self.auths.is_empty() {
            body = body.u32(u32::try_from(auths.len()).unwrap_or(u32::MAX)).bytes(&auths);
        }
        let body = Zeroizing::new(body.bytes(&self.parameters).finish());
        let tag = if self.auths.is_empty() { TAG_NO_SESSIONS } else { TAG_SESSIONS };
        let size = u32::try_from(body.len() + 6).unwrap_or(u32::MAX);
        Zeroizing::new(Writer::new().u16(tag).u32(size).bytes(&body).finish())
    }
}

fn put_auth(out: Writer, auth: &Auth<'_>) -> Writer {
    match auth {
        Auth::Password(password) => out.u32(RS_PW).sized(&[]).u8(CONTINUE_SESSION).sized(password),
        Auth::Policy(session) => out.u32(session.0).sized(&[]).u8(0).sized(&[]),
    }
}

impl Answer {
    fn decode(body: &[u8], tag: u16, command: &Command<'_>) -> Result<Self, Malformed> {
        let mut fields = Reader::new(body);
        let handle = Handle(if command.loads { fields.u32()? } else { 0 });
        let parameters = match (tag, command.auths.is_empty()) {
            (TAG_NO_SESSIONS, true) => fields.rest(),
            (TAG_SESSIONS, false) => {
                let size = usize::try_from(fields.u32()?).map_err(|_| Malformed)?;
                fields.take(size)?
            }
            _ => return Err(Malformed),
        };
        Ok(Self { handle, parameters: parameters.to_vec() })
    }

    pub(crate) fn read<T>(
        &self,
        command: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, TpmError> {
        read(&mut Reader::new(&self.parameters)).map_err(|_| TpmError::Malformed(command))
    }
}

const TAG_NO_SESSIONS: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;
const CONTINUE_SESSION: u8 = 1;
const TRANSIENT_FIRST: u32 = 0x8000_0000;
const LOADED_SESSION_FIRST: u32 = 0x0200_0000;
/// Before a busy TPM is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// Flushing takes no TPM long.
const FLUSH_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
