//! Following the Workload API: files are written when something new comes, and
//! then the program that reads them is told.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use steeple_proto::workload as proto;
use steeple_runtime::Clock;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{debug, error, info};

use crate::SYSTEM;
use crate::config::{Config, JwtSvidFile, X509Files};
use crate::files::{FileError, NewFile, replace};
use crate::health::{self, Health, Written};
use crate::material::{self, MaterialError};
use crate::process::{Program, signal_pid_file};
use crate::workload::{Workload, first, patiently, worded};

/// The helper by its configuration.
pub(crate) struct Helper<'c> {
    config: Config,
    workload: Workload,
    health: Health,
    clock: &'c dyn Clock,
}

/// Why the helper ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("{}", worded(.0))]
    Call(#[from] Status),
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("watching {what}: {}", worded(status))]
    Watch { what: &'static str, status: Status },
    #[error("{0}")]
    Tokens(String),
}

impl<'c> Helper<'c> {
    pub(crate) fn new(config: Config, clock: &'c dyn Clock) -> Self {
        let (workload, health) = (Workload::new(&config.agent_socket), Health::new(&config));
        Self { config, workload, health, clock }
    }

    pub(crate) fn is_daemon(&self) -> bool {
        self.config.daemon_mode
    }

    /// Fetches everything once.
    pub(crate) async fn fetch_once(&self) -> Result<(), HelperError> {
        if let Some(names) = &self.config.x509 {
            let fetch = || async { first(self.workload.x509_svids().await?).await };
            let response = patiently(fetch).await.map_err(HelperError::from);
            let written = response.and_then(|it| self.write_x509(names, &it));
            told("x509 certificates", "x509 certificates", written)?;
        }
        if let Some(name) = &self.config.jwt_bundle_file {
            let fetch = || async { first(self.workload.jwt_bundles().await?).await };
            let response = patiently(fetch).await.map_err(HelperError::from);
            let written = response.and_then(|it| self.write_jwt_bundles(name, &it));
            told("JWT bundle", "JWT bundle", written)?;
        }
        let mut failures = Vec::new();
        for token in &self.config.jwt_svids {
            let response = patiently(|| self.workload.jwt_svid(&token.audience)).await;
            let written =
                response.map_err(HelperError::from).and_then(|it| self.write_jwt(token, &it));
            if let Err(error) = written {
                let audience = token.audience.first().map_or("", String::as_str);
                failures
                    .push(format!("unable to fetch JWT SVID for audience {audience:?}: {error}"));
            }
        }
        if !self.config.jwt_svids.is_empty() {
            let written = match failures.is_empty() {
                true => Ok(()),
                false => Err(HelperError::Tokens(failures.join("\n"))),
            };
            told("JWT SVIDs", "JWT SVIDs", written)?;
        }
        Ok(())
    }

    /// Keeps everything up to date until told to stop.
    pub(crate) async fn follow(
        &self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), HelperError> {
        let health = async {
            match self.config.health.clone() {
                Some(config) => health::serve(config, self.health.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown => Ok(()),
            () = health => Ok(()),
            ended = self.follow_x509() => ended,
            ended = self.follow_jwt_bundles() => ended,
            () = self.follow_jwt_svids() => Ok(()),
        }
    }

    async fn follow_x509(&self) -> Result<(), HelperError> {
        let Some(names) = &self.config.x509 else { return std::future::pending().await };
        info!(system = SYSTEM, "Watching for X509 Context");
        let mut program =
            self.config.command.clone().map(|it| Program::new(it, self.config.renew_signal));
        let (updates, mut received) = tokio::sync::watch::channel(None);
        let open = || self.workload.x509_svids();
        let watching = follow("X.509 context", "x509 context", open, |response| {
            updates.send_replace(Some(response));
        });
        let acting = async {
            let mut telling: Option<Telling<'_>> = None;
            let mut again: Option<Instant> = None;
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::select! {
                    changed = received.changed() => {
                        if changed.is_err() {
                            return std::future::pending::<()>().await;
                        }
                        pause = FIRST_PAUSE;
                    }
                    () = at(again) => {}
                    () = ended(program.as_mut()) => continue,
                    () = finished(&mut telling) => {
                        telling = None;
                        continue;
                    }
                }
                let response: Option<proto::X509svidResponse> =
                    received.borrow_and_update().clone();
                let Some(response) = response else { continue };
                if self.update_x509(names, &response) {
                    again = None;
                    start_or_signal(program.as_mut());
                    telling = Some(Box::pin(self.tell_pid_file()));
                } else {
                    again = Some(Instant::now() + pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        tokio::select! {
            ended = watching => ended,
            () = acting => Ok(()),
        }
    }

    /// Writes the files; whether that went well.
    fn update_x509(&self, names: &X509Files, response: &proto::X509svidResponse) -> bool {
        for svid in &response.svids {
            info!(system = SYSTEM, spiffe_id = svid.spiffe_id, "Received update");
        }
        debug!(system = SYSTEM, "Updating X.509 certificates");
        match self.write_x509(names, response) {
            Ok(()) => {
                info!(system = SYSTEM, "X.509 certificates updated");
                true
            }
            Err(error) => {
                error!(system = SYSTEM, %error, "Unable to dump bundle");
                false
            }
        }
    }

    async fn tell_pid_file(&self) {
        let (Some(path), Some(signal)) = (&self.config.pid_file, self.config.renew_signal) else {
            return;
        };
        if let Err(error) = signal_pid_file(path, signal).await {
            error!(system = SYSTEM, %error, "Unable to signal PID file");
        }
    }

    async fn follow_jwt_bundles(&self) -> Result<(), HelperError> {
        let Some(name) = &self.config.jwt_bundle_file else {
            return std::future::pending().await;
        };
        info!(system = SYSTEM, "Watching for JWT Bundles");
        let open = || self.workload.jwt_bundles();
        follow("JWT bundle updates", "JWT bundles", open, |response| {
            debug!(system = SYSTEM, "Updating JWT bundle");
            match self.write_jwt_bundles(name, &response) {
                Ok(()) => info!(system = SYSTEM, "JWT bundle updated"),
                Err(error) => error!(system = SYSTEM, "Error writing JWT Bundle to disk: {error}"),
            }
        })
        .await
    }

    /// Keeps every token fresh, for ever; none waits for another.
    async fn follow_jwt_svids(&self) {
        let tokens = self.config.jwt_svids.iter().map(|token| self.follow_jwt_svid(token));
        futures_util::future::join_all(tokens).await;
        std::future::pending::<()>().await;
    }

    async fn follow_jwt_svid(&self, token: &JwtSvidFile) {
        let mut pause = FIRST_PAUSE;
        loop {
            debug!(system = SYSTEM, "Updating JWT SVID");
            let due = match self.update_jwt(token).await {
                Ok(due) => {
                    info!(system = SYSTEM, "JWT SVID updated");
                    pause = FIRST_PAUSE;
                    due
                }
                Err(error) => {
                    error!(system = SYSTEM, "Unable to update JWT SVID: {error}");
                    let due = self.clock.now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    due
                }
            };
            // In short steps: a machine that sleeps, or whose clock is set, is
            // late by no more than one of them.
            while let Ok(left) = due.duration_since(self.clock.now()) {
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
            }
        }
    }

    async fn update_jwt(&self, token: &JwtSvidFile) -> Result<SystemTime, HelperError> {
        let response = self.workload.jwt_svid(&token.audience).await?;
        let (file, next) =
            material::jwt_file(&self.config, &token.file, &response, self.clock.now())?;
        self.write_token(token, file)?;
        Ok(next)
    }

    fn write_x509(
        &self,
        names: &X509Files,
        response: &proto::X509svidResponse,
    ) -> Result<(), HelperError> {
        let files = material::x509_files(&self.config, names, response, self.clock.now());
        let written = files.map_err(HelperError::from).and_then(|files| Ok(replace(&files)?));
        self.health.x509(if written.is_ok() { Written::Done } else { Written::Failed });
        written
    }

    fn write_jwt_bundles(
        &self,
        name: &str,
        response: &proto::JwtBundlesResponse,
    ) -> Result<(), HelperError> {
        let file = material::jwt_bundle_file(&self.config, name, response);
        let written = file.map_err(HelperError::from).and_then(|file| Ok(replace(&[file])?));
        let outcome = if written.is_ok() { Written::Done } else { Written::Failed };
        self.health.jwt(&self.config, name, outcome);
        written
    }

    fn write_jwt(
        &self,
        token: &JwtSvidFile,
        response: &proto::JwtsvidResponse,
    ) -> Result<(), HelperError> {
        let (file, _) = material::jwt_file(&self.config, &token.file, response, self.clock.now())?;
        self.write_token(token, file)
    }

    fn write_token(&self, token: &JwtSvidFile, file: NewFile) -> Result<(), HelperError> {
        let written = replace(&[file]);
        let outcome = if written.is_ok() { Written::Done } else { Written::Failed };
        self.health.jwt(&self.config, &token.file, outcome);
        Ok(written?)
    }
}

/// Reads a stream, and opens it again whenever it breaks, until the agent says
/// that it never will.
async fn follow<T, F>(
    what: &'static str,
    short: &'static str,
    open: impl Fn() -> F,
    mut take: impl FnMut(T),
) -> Result<(), HelperError>
where
    F: Future<Output = Result<tonic::Streaming<T>, Status>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let status = match open().await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        pause = FIRST_PAUSE;
                        take(message);
                    }
                    Ok(None) => break Status::unavailable("EOF"),
                    Err(status) => break status,
                }
            },
            Err(status) => status,
        };
        if status.code() == Code::InvalidArgument {
            return Err(HelperError::Watch { what, status });
        }
        if status.code() != Code::Cancelled {
            error!(system = SYSTEM, "Error while watching {short}: {}", worded(&status));
        }
        // Many helpers of one agent should not come back all at once.
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_WAIT);
    }
}

fn start_or_signal(program: Option<&mut Program>) {
    if let Some(Err(error)) = program.map(Program::renew) {
        error!(system = SYSTEM, %error, "Unable to signal process");
    }
}

async fn ended(program: Option<&mut Program>) {
    match program {
        Some(program) => program.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for a moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Signalling the process of a PID file, which may take a while.
type Telling<'h> = Pin<Box<dyn Future<Output = ()> + Send + 'h>>;

async fn finished(work: &mut Option<Telling<'_>>) {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Logs how a single fetch went.
fn told(
    what: &'static str,
    done: &'static str,
    outcome: Result<(), HelperError>,
) -> Result<(), HelperError> {
    match &outcome {
        Ok(()) => info!(system = SYSTEM, "Successfully fetched {done}"),
        Err(error) => error!(system = SYSTEM, %error, "Error fetching {what}"),
    }
    outcome
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between attempts at a token, or at files that cannot be written.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between attempts at a stream.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
