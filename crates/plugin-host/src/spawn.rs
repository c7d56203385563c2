//! Starting a plugin's process so that it cannot outlive this one.
//!
//! The kernel kills a child when the *thread* that started it ends, if the child asked for that.
//! So one thread that never ends starts them all; and since a child must ask before it becomes
//! the plugin, what is started first is this very program, whose `main` calls [`exec_if_asked`].

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

use rustix::process::{Pid, Signal};
use steeple_runtime::gotext;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::error::LaunchError;
use crate::image::Image;
use crate::spec::Spec;

/// The first argument of this program when it is to become a plugin.
const MARKER: &str = "--steeple-exec-plugin";

/// What a child that could not become the plugin says in place of a handshake.
pub(crate) const EXEC_FAILED: &str = "steeple-exec-failed: ";

static HAS_TRAMPOLINE: OnceLock<()> = OnceLock::new();

/// Becomes a plugin when the command line says so; for the first line of `main`, which is to
/// return what this gives. Gives nothing otherwise, and plugins then die with this process.
pub fn exec_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(MARKER)) {
        let _ = HAS_TRAMPOLINE.set(());
        return None;
    }
    let (Some(parent), Some(program), Some(name)) = (args.next(), args.next(), args.next()) else {
        return Some(ExitCode::from(2));
    };
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have ended before the kernel was asked.
    let alive = parent.to_str().and_then(|parent| parent.parse().ok()).and_then(Pid::from_raw)
        == rustix::process::getppid();
    if asked.is_ok() && alive {
        let error = std::process::Command::new(program).arg0(name).args(args).exec();
        announce_failure(&error);
    }
    Some(ExitCode::from(2))
}

#[expect(clippy::print_stdout, reason = "the host reads what a plugin prints first")]
fn announce_failure(error: &io::Error) {
    println!("{EXEC_FAILED}{}", gotext::system(error));
}

struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    done: oneshot::Sender<io::Result<Child>>,
}

/// Starts the plugin's process, its output piped.
pub(crate) async fn spawn(spec: &Spec, image: &Image) -> Result<Child, LaunchError> {
    let failed = |error: &io::Error| LaunchError::Exec {
        path: image.path().to_owned(),
        reason: gotext::system(error),
    };
    let command = command(spec, image);
    let runtime = tokio::runtime::Handle::current();
    let (done, started) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts plugins is gone");
    let thread = thread().map_err(|error| failed(&error))?;
    thread.send(Order { command, runtime, done }).map_err(|_| failed(&gone()))?;
    let child = started.await.map_err(|_| failed(&gone()))?;
    child.map_err(|error| failed(&error))
}

fn command(spec: &Spec, image: &Image) -> Command {
    let name: OsString = image.path().into();
    let mut command = if HAS_TRAMPOLINE.get().is_some() {
        let mut command = Command::new("/proc/self/exe");
        command.arg(MARKER).arg(std::process::id().to_string()).arg(image.program()).arg(name);
        command
    } else {
        let mut command = Command::new(image.program());
        command.arg0(name);
        command
    };
    let kind = spec.kind.name();
    command
        .args(&spec.args)
        .env(kind, kind)
        .env("PLUGIN_MIN_PORT", "10000")
        .env("PLUGIN_MAX_PORT", "25000")
        .env("PLUGIN_PROTOCOL_VERSIONS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// The thread that starts plugins; it lives as long as the process.
fn thread() -> io::Result<mpsc::Sender<Order>> {
    static THREAD: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    if let Some(thread) = THREAD.get() {
        return Ok(thread.clone());
    }
    let (sender, orders) = mpsc::channel::<Order>();
    std::thread::Builder::new().name("plugin_spawner".into()).spawn(move || {
        for mut order in orders {
            let _entered = order.runtime.enter();
            // Whoever asked may have given up; the child is then killed as it is dropped.
            let _ = order.done.send(order.command.spawn());
        }
    })?;
    // Of two that got here at once, the second keeps a thread of its own, and it alive, too.
    Ok(THREAD.get_or_init(|| sender).clone())
}
