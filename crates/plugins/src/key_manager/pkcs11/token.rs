//! The token: its module, its sessions, and how it is found again after it was away.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Limit, Slot};
use cryptoki::types::AuthPin;
use steeple_plugin::Code;
use tokio::sync::Semaphore;

use super::config::{Config, TokenName};

/// A token and the sessions with it. All calls into the module are made from here, on threads
/// that may wait.
pub(super) struct Token {
    module: Pkcs11,
    config: Config,
    /// As many calls at once as the token has sessions for. A call that hangs keeps its permit,
    /// so that no more than that many threads ever hang.
    calls: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often all sessions were given up. Object handles of an earlier generation mean nothing.
    generation: u64,
    /// Stays open, since the login ends with the last session.
    anchor: Option<(Slot, Session)>,
    idle: Vec<Session>,
    /// The token said no to the PIN. It is not tried again: after a few times a token locks.
    pin_refused: Option<String>,
}

/// A session that somebody uses.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) generation: u64,
}

/// Why the token did not do something.
#[derive(Debug)]
pub(super) enum Failure {
    /// The module's own words.
    Module(Error),
    /// Ours.
    Told(Code, String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(Error::Pkcs11(reason, function)) => {
                write!(f, "{function}: {}", explain(*reason))
            }
            Self::Module(error) => write!(f, "{error}"),
            Self::Told(_, text) => f.write_str(text),
        }
    }
}

/// What the standard's names of errors mean to an operator.
fn explain(reason: RvError) -> String {
    match reason {
        RvError::TokenNotPresent | RvError::DeviceRemoved => "the token was removed".to_owned(),
        RvError::TokenWriteProtected => "the token is write-protected".to_owned(),
        RvError::DeviceMemory => "the token is full".to_owned(),
        RvError::MechanismInvalid => "the token does not support this kind of key".to_owned(),
        RvError::UserNotLoggedIn => "the token wants a PIN".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Failure {
    pub(super) fn told(code: Code, text: impl Into<String>) -> Self {
        Self::Told(code, text.into())
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::Told(code, _) => *code,
            Self::Module(Error::Pkcs11(reason, _)) if is_away(*reason) => Code::Unavailable,
            Self::Module(_) => Code::Internal,
        }
    }

    /// An object cannot be read, though the token can.
    pub(super) fn is_about_the_object(&self) -> bool {
        use RvError as Rv;
        let Self::Module(Error::Pkcs11(reason, _)) = self else { return false };
        matches!(reason, Rv::ObjectHandleInvalid | Rv::GeneralError | Rv::FunctionFailed)
    }

    /// A private key and a mechanism do not go together.
    pub(super) fn is_about_the_key(&self) -> bool {
        use RvError as Rv;
        let Self::Module(Error::Pkcs11(reason, _)) = self else { return false };
        matches!(
            reason,
            Rv::KeyTypeInconsistent
                | Rv::KeyFunctionNotPermitted
                | Rv::KeySizeRange
                | Rv::MechanismInvalid
                | Rv::DataLenRange
                | Rv::DataInvalid
        )
    }

    /// The session or the token is gone, so that another session may do better.
    fn is_lost(&self) -> bool {
        matches!(self, Self::Module(Error::Pkcs11(reason, _)) if is_away(*reason))
    }
}

fn is_away(reason: RvError) -> bool {
    matches!(
        reason,
        RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn
    )
}

impl Token {
    /// Loads the module and logs in.
    ///
    /// # Errors
    /// There is no such module or token, or it refuses the PIN.
    pub(super) fn open(config: Config) -> Result<Self, Failure> {
        let module = load(&config.module_path)?;
        let mut token =
            Self { module, config, calls: Arc::new(Semaphore::new(0)), state: Mutex::default() };
        let slot = token.connect(&mut token.state())?;
        let info = token.module.get_token_info(slot)?;
        let limit = |limit| match limit {
            Limit::Max(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Limit::Unavailable | Limit::Infinite => usize::MAX,
        };
        // One of all sessions is the anchor.
        let most = limit(info.max_rw_session_count())
            .min(limit(info.max_session_count()).saturating_sub(1));
        token.calls = Arc::new(Semaphore::new(most.clamp(1, MAX_CALLS)));
        Ok(token)
    }

    pub(super) fn name(&self) -> &TokenName {
        &self.config.token
    }

    /// Runs `work` on a thread that may wait, for at most `deadline` as far as the caller sees.
    ///
    /// # Errors
    /// Those of `work`, or that it is late.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Duration,
        work: impl FnOnce(&Arc<Self>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let token = Arc::clone(self);
        let call = async {
            let permit = Arc::clone(&token.calls).acquire_owned().await;
            let permit = permit.map_err(|_| Failure::told(Code::Internal, "closed"))?;
            let call = move || {
                let _permit = permit;
                work(&token)
            };
            let panicked = |error| Failure::told(Code::Internal, format!("{error}"));
            tokio::task::spawn_blocking(call).await.map_err(panicked)?
        };
        tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
            let text = format!("the token has not answered within {} seconds", deadline.as_secs());
            Err(Failure::Told(Code::DeadlineExceeded, text))
        })
    }

    /// Runs `work`, which may be repeated, in a session; once more in another when that is lost.
    ///
    /// # Errors
    /// Those of `work`, or of opening a session.
    pub(super) fn with_session<T>(
        &self,
        work: impl Fn(&Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.once(&work) {
            Err(error) if error.is_lost() => self.once(work),
            outcome => outcome,
        }
    }

    /// Runs `work` in a session. When that is lost, all of them are given up.
    ///
    /// # Errors
    /// Those of `work`, or of opening a session.
    pub(super) fn once<T>(
        &self,
        work: impl FnOnce(&Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let seen = self.state().generation;
        let outcome = self.take().and_then(|open| {
            let outcome = work(&open);
            // After a failure a session may be in the midst of something.
            if outcome.is_ok() {
                self.give_back(open);
            }
            outcome
        });
        if outcome.as_ref().is_err_and(Failure::is_lost) {
            self.give_up(seen);
        }
        outcome
    }

    fn take(&self) -> Result<Open, Failure> {
        let mut state = self.state();
        if let Some(session) = state.idle.pop() {
            return Ok(Open { session, generation: state.generation });
        }
        let slot = match &state.anchor {
            Some((slot, _)) => *slot,
            None => self.connect(&mut state)?,
        };
        let session = self.module.open_rw_session(slot)?;
        Ok(Open { session, generation: state.generation })
    }

    fn give_back(&self, open: Open) {
        let mut state = self.state();
        if state.generation == open.generation {
            state.idle.push(open.session);
        }
    }

    /// Gives up all sessions of the generation `seen`.
    fn give_up(&self, seen: u64) {
        let mut state = self.state();
        if state.generation == seen {
            state.generation += 1;
            let gone = (state.anchor.take(), std::mem::take(&mut state.idle));
            drop(state);
            // Closing them may take a while.
            drop(gone);
        }
    }

    /// Finds the token and logs in.
    fn connect(&self, state: &mut State) -> Result<Slot, Failure> {
        if let Some(reason) = &state.pin_refused {
            return Err(Failure::told(Code::PermissionDenied, reason));
        }
        let slot = match self.find() {
            Err(Failure::Module(Error::Pkcs11(RvError::CryptokiNotInitialized, _))) => {
                initialize(&self.module)?;
                self.find()?
            }
            found => found?,
        };
        let anchor = self.module.open_ro_session(slot)?;
        let pin = self.config.pin().map_err(|text| Failure::told(Code::InvalidArgument, text))?;
        let info = self.module.get_token_info(slot)?;
        if pin.is_none() && info.login_required() && !info.protected_authentication_path() {
            let text = format!("{} wants a PIN: set pin, pin_file or pin_env", self.config.token);
            return Err(Failure::told(Code::InvalidArgument, text));
        }
        if pin.is_some() || info.login_required() {
            let pin = pin.map(|pin| AuthPin::from(pin.as_str()));
            match anchor.login(UserType::User, pin.as_ref()) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
                Err(Error::Pkcs11(reason, _)) if is_about_the_pin(reason) => {
                    let text = format!(
                        "{} refuses the PIN ({reason:?}); it is not tried again, lest the token \
                         locks: mend the PIN and restart",
                        self.config.token
                    );
                    state.pin_refused = Some(text.clone());
                    return Err(Failure::told(Code::PermissionDenied, text));
                }
                Err(error) => return Err(error.into()),
            }
        }
        state.anchor = Some((slot, anchor));
        Ok(slot)
    }

    fn find(&self) -> Result<Slot, Failure> {
        let slots = self.module.get_slots_with_token()?;
        let fits = |slot: &Slot| match &self.config.token {
            TokenName::Slot(id) => slot.id() == *id,
            TokenName::Label(label) => self
                .module
                .get_token_info(*slot)
                .is_ok_and(|info| info.token_initialized() && info.label() == label),
        };
        let mut found = slots.into_iter().filter(fits);
        let absent = || {
            let text = format!("the module has no {}", self.config.token);
            Failure::told(Code::Unavailable, text)
        };
        let slot = found.next().ok_or_else(absent)?;
        match found.next() {
            None => Ok(slot),
            Some(_) => {
                let text = format!("several tokens are {}: name one by slot_id", self.config.token);
                Err(Failure::told(Code::InvalidArgument, text))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_about_the_pin(reason: RvError) -> bool {
    matches!(
        reason,
        RvError::PinExpired
            | RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinLocked
            | RvError::UserPinNotInitialized
    )
}

/// The modules that are loaded. The standard has one initialisation per process and module, and
/// many a module does not survive being unloaded, so they stay.
static LOADED: Mutex<Vec<(PathBuf, Pkcs11)>> = Mutex::new(Vec::new());

fn load(path: &Path) -> Result<Pkcs11, Failure> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, module)) = loaded.iter().find(|(of, _)| of == path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path).map_err(|error| {
        let text = format!("unable to load module {}: {error}", path.display());
        Failure::told(Code::InvalidArgument, text)
    })?;
    initialize(&module)?;
    loaded.push((path.to_owned(), module.clone()));
    Ok(module)
}

fn initialize(module: &Pkcs11) -> Result<(), Failure> {
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// More than this many calls at once do not make a token faster.
const MAX_CALLS: usize = 8;
