//! A plugin's process and the one connection to it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use steeple_runtime::{Tasks, gotext};
use tokio::io::AsyncRead;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Child;
use tokio::sync::{oneshot, watch};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::diagnose;
use crate::error::LaunchError;
use crate::handshake::{self, Address};
use crate::image::Image;
use crate::output::{self, Lines, Voice};
use crate::spawn::{self, EXEC_FAILED};
use crate::spec::Spec;

/// From start to handshake.
const START: Duration = Duration::from_secs(60);

/// For the connection after it.
const CONNECT: Duration = Duration::from_secs(10);

/// A child that is killed when this is dropped.
pub(crate) struct Process {
    /// What calls go through; when the child is gone, they fail.
    pub(crate) channel: Channel,
    pub(crate) address: Address,
    pub(crate) pid: u32,
    exited: watch::Receiver<bool>,
    kill: Mutex<Option<oneshot::Sender<()>>>,
}

impl Process {
    /// Starts the child and waits until it can be called.
    pub(crate) async fn start(
        spec: &Spec,
        image: &Image,
        tasks: &Tasks,
    ) -> Result<Self, LaunchError> {
        let voice = Voice::of(spec);
        let path = image.path().to_owned();
        let what = spec.clone();
        let log = move |message: &str| {
            tracing::debug!(
                subsystem_name = "catalog",
                external = true,
                plugin_name = what.name,
                plugin_type = what.kind.name(),
                path = %path.display(),
                "{message}"
            );
        };
        log("starting plugin");
        let mut child = spawn::spawn(spec, image).await?;
        log("plugin started");
        let pid = child.id().unwrap_or_default();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (kill, killed) = oneshot::channel();
        let (told, exited) = watch::channel(false);
        if let Some(stderr) = stderr {
            tasks.spawn_isolated("plugin_stderr", output::log_stderr(stderr, voice.clone()));
        }
        tasks.spawn_isolated(
            "plugin_process",
            supervise(child, killed, told, spec.clone(), image.path().display().to_string()),
        );
        let stdout = stdout.ok_or(LaunchError::Exited)?;
        let mut lines = Lines::new(stdout);
        let address = tokio::time::timeout(START, listen_for(&mut lines, image.path()))
            .await
            .map_err(|_| LaunchError::Timeout)??;
        // The pipe must not fill up.
        tasks.spawn_isolated("plugin_stdout", drain_stdout(lines, voice.named("stdout")));
        let channel = dial(&address).await?;
        Ok(Self { channel, address, pid, exited, kill: Mutex::new(Some(kill)) })
    }

    pub(crate) fn has_exited(&self) -> bool {
        // A supervisor that is gone watches nothing any more.
        *self.exited.borrow() || self.exited.has_changed().is_err()
    }

    /// Kills the child.
    pub(crate) fn kill(&self) {
        self.kill.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits for the child's end.
    pub(crate) async fn exited(&self) {
        let _ = self.exited.clone().wait_for(|exited| *exited).await;
    }
}

/// Waits for the child, and kills it with all that it started once nobody holds it any more.
async fn supervise(
    mut child: Child,
    killed: oneshot::Receiver<()>,
    told: watch::Sender<bool>,
    spec: Spec,
    path: String,
) {
    let id = child.id();
    let status = tokio::select! {
        status = child.wait() => status,
        _ = killed => {
            kill(id);
            child.wait().await
        }
    };
    // Whatever the plugin has started ends with it.
    kill(id);
    told.send_replace(true);
    let (name, kind, id) = (spec.name.as_str(), spec.kind.name(), id.unwrap_or_default());
    macro_rules! line {
        ($level:ident, $($field:tt)*) => {
            tracing::$level!(
                subsystem_name = "catalog",
                external = true,
                plugin_name = name,
                plugin_type = kind,
                id,
                plugin = path,
                $($field)*
                "plugin process exited"
            )
        };
    }
    match status {
        Ok(status) if status.success() => line!(info,),
        Ok(status) => line!(error, error = reason(status),),
        Err(error) => line!(error, %error,),
    }
}

fn kill(id: Option<u32>) {
    if let Some(id) = id.and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 1) {
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}

/// How a process ended, as Go says it.
fn reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(11)) => "signal: segmentation fault".to_owned(),
        (None, Some(15)) => "signal: terminated".to_owned(),
        (None, Some(6)) => "signal: aborted".to_owned(),
        (None, signal) => format!("signal: {}", signal.unwrap_or_default()),
    }
}

async fn listen_for<R: AsyncRead + Unpin>(
    lines: &mut Lines<R>,
    path: &Path,
) -> Result<Address, LaunchError> {
    let note = |prefix: &str| format!("{prefix}\n{}", diagnose::about(path));
    match lines.next().await {
        None => Err(LaunchError::Unrecognized {
            line: String::new(),
            note: note("\nFailed to read any lines from plugin's stdout"),
        }),
        Some(line) => match line.text.strip_prefix(EXEC_FAILED) {
            Some(reason) => {
                Err(LaunchError::Exec { path: path.to_owned(), reason: reason.to_owned() })
            }
            None => handshake::parse(&line.text, || note("")),
        },
    }
}

async fn drain_stdout<R: AsyncRead + Unpin>(mut lines: Lines<R>, voice: Voice) {
    while let Some(line) = lines.next().await {
        voice.say(steeple_runtime::log::Level::Debug, &line.text, &Default::default());
    }
}

async fn dial(address: &Address) -> Result<Channel, LaunchError> {
    let failed = |reason: String| LaunchError::Dial { address: address.to_string(), reason };
    let target = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move {
            Ok::<_, std::io::Error>(match target {
                Address::Unix(path) => TokioIo::new(Stream::Unix(UnixStream::connect(path).await?)),
                Address::Tcp(address) => {
                    TokioIo::new(Stream::Tcp(TcpStream::connect(address).await?))
                }
            })
        }
    });
    // Neither name nor port is looked at: the connector knows the way.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
    let connecting = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(failed(root_text(&error))),
        Err(_) => Err(failed("timeout".to_owned())),
    }
}

fn root_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    match root.downcast_ref::<std::io::Error>() {
        Some(error) => gotext::system(error),
        None => root.to_string(),
    }
}

/// Either kind of connection.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Unix($stream) => $call,
            Stream::Tcp($stream) => $call,
        }
    };
}

impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        either!(self, stream => std::pin::Pin::new(stream).poll_read(cx, buffer))
    }
}

impl tokio::io::AsyncWrite for Stream {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        either!(self, stream => std::pin::Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        either!(self, stream => std::pin::Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        either!(self, stream => std::pin::Pin::new(stream).poll_shutdown(cx))
    }
}
