//! The stage: what the scenes play on, and how it is cleared in the end, however that comes.

use std::io::Stdout;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use steeple_runtime::drain::Tasks;
use steeple_runtime::signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::args::Options;
use crate::daemon::{Daemon, End, tail};
use crate::error::DemoError;
use crate::event::Event;
use crate::place::{Place, file};
use crate::screen::Screen;

/// What every scene needs.
pub(crate) struct Stage {
    pub(crate) screen: Screen<Stdout>,
    pub(crate) place: Place,
    /// Where the programs are; absolute, without symbolic links.
    pub(crate) bin: PathBuf,
    pub(crate) admin: Admin,
    pub(crate) began: Instant,
    tasks: Tasks,
    daemons: Vec<Daemon>,
    deaths: mpsc::UnboundedSender<DemoError>,
}

/// A workload at work.
pub(crate) struct Actor {
    name: String,
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    errors: ChildStderr,
}

/// How a demonstration ended.
enum Outcome {
    Done,
    Interrupted,
    Failed(DemoError),
}

/// Plays everything, on a runtime with one thread: the kernel ends our children with the *thread*
/// that started them, and this one lives as long as the process.
pub(crate) fn main(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut screen = Screen::stdout();
    match runtime {
        Ok(runtime) => runtime.block_on(perform(options, screen)),
        Err(error) => tell(&mut screen, &DemoError::Screen(error)),
    }
}

async fn perform(options: &Options, mut screen: Screen<Stdout>) -> ExitCode {
    let interrupted = signal::shutdown();
    let (deaths, mut dead) = mpsc::unbounded_channel();
    let set = programs(options)
        .and_then(|bin| Place::prepare(options.state_dir.as_deref()).map(|place| (bin, place)));
    let (bin, place) = match set {
        Ok(set) => set,
        Err(error) => return tell(&mut screen, &error),
    };
    let admin = Admin::new(bin.join("spire-server"), place.server_socket.clone());
    let (tasks, daemons, began) = (Tasks::new(), Vec::new(), Instant::now());
    let mut stage = Stage { screen, place, bin, admin, began, tasks, daemons, deaths };
    let outcome = tokio::select! {
        biased;
        () = interrupted => Outcome::Interrupted,
        Some(error) = dead.recv() => Outcome::Failed(error),
        played = stage.play(options.once) => played.map_or_else(Outcome::Failed, |()| Outcome::Done),
    };
    let told = match &outcome {
        Outcome::Failed(error) => tell(&mut stage.screen, error),
        Outcome::Interrupted => {
            // Below the ^C that the terminal shows; there may be nobody left to see it.
            let _ = stage.screen.gap();
            if options.once { ExitCode::from(130) } else { ExitCode::SUCCESS }
        }
        Outcome::Done => ExitCode::SUCCESS,
    };
    if stage.clear().await { told } else { ExitCode::FAILURE }
}

impl Stage {
    /// Starts a program of the trust domain and waits until it answers on `socket`.
    pub(crate) async fn start(
        &mut self,
        program: &'static str,
        arguments: &[&str],
        log: &str,
        socket: &Path,
    ) -> Result<(), DemoError> {
        let log = self.place.file(log);
        let daemon = Daemon::start(program, &self.bin, arguments, &log, &self.tasks)?;
        let end = daemon.end();
        self.daemons.push(daemon);
        let daemon = self.daemons.last().expect("it was just added");
        if let Err(error) = daemon.listens(socket).await {
            // One that ended is nobody to stop; one that is silent still is.
            self.daemons.retain(Daemon::is_running);
            return Err(error);
        }
        let deaths = self.deaths.clone();
        self.tasks.spawn("watch", async move {
            // Nobody asks any more when the stage is being cleared.
            let _ = deaths.send(end.await);
        });
        Ok(())
    }

    /// Starts a workload under `name`, with the Workload API's address and nothing else.
    pub(crate) async fn workload(
        &self,
        name: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<Actor, DemoError> {
        let path = self.place.workload(name);
        let this = std::env::current_exe().map_err(file("find", Path::new("this program")))?;
        let mut command = tokio::process::Command::new(this);
        command.arg("guard").arg(std::process::id().to_string()).arg(&path).arg("workload");
        command
            .args(arguments)
            .env_clear()
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.place.agent_socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(file("start", &path))?;
        let mut stdin = child.stdin.take().expect("it is piped");
        // Whoever does not read has ended, which its output tells.
        let _ = stdin.write_all(input.as_bytes()).await;
        let stdout = child.stdout.take().expect("it is piped");
        let errors = child.stderr.take().expect("it is piped");
        let events = BufReader::new(stdout).lines();
        Ok(Actor { name: name.to_owned(), child, events, errors })
    }

    /// Stops what runs, the last one first. Answers whether all of it ended well.
    async fn clear(mut self) -> bool {
        let mut clean = true;
        while let Some(daemon) = self.daemons.pop() {
            let (program, log) = (daemon.program, daemon.log.clone());
            let end = daemon.stop().await;
            clean &= end == End::Clean;
            // There may be nobody left to see it.
            let _ = match end {
                End::Clean => self.screen.note(&format!("{program} has stopped.")),
                End::Unclean => self
                    .screen
                    .bad(&format!("{program} did not stop cleanly; its log: {}", log.display())),
                End::Before => Ok(()),
            };
        }
        clean
    }
}

impl Actor {
    /// What it tells next.
    pub(crate) async fn next(&mut self) -> Result<Event, DemoError> {
        let line = self.events.next_line().await.ok().flatten();
        match line.map(|line| serde_json::from_str(&line)) {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.silent(error.to_string())),
            None => {
                let mut said = String::new();
                // What it said on its way out, if anything.
                let _ = (&mut self.errors).take(400).read_to_string(&mut said).await;
                let _ = self.child.wait().await;
                Err(self.silent(said.trim().to_owned()))
            }
        }
    }

    /// The reason of the refusal that must come next.
    pub(crate) async fn refusal(&mut self) -> Result<String, DemoError> {
        match self.next().await? {
            Event::Refused { why } => Ok(why),
            _ => Err(DemoError::NotRefused { workload: self.name.clone() }),
        }
    }

    /// An error for an event that is none of the expected ones.
    pub(crate) fn unexpected(&self, event: Event) -> DemoError {
        match event {
            Event::Refused { why } => DemoError::Refused { workload: self.name.clone(), why },
            event => self.silent(format!("{event:?}").chars().take(100).collect()),
        }
    }

    fn silent(&self, said: String) -> DemoError {
        DemoError::Workload { workload: self.name.clone(), said }
    }
}

/// The folder of the two programs.
fn programs(options: &Options) -> Result<PathBuf, DemoError> {
    let folder = match &options.bin {
        Some(folder) => folder.clone(),
        None => {
            let this = std::env::current_exe().map_err(file("find", Path::new("this program")))?;
            this.parent().map_or_else(PathBuf::new, Path::to_path_buf)
        }
    };
    for program in ["spire-server", "spire-agent"] {
        if !folder.join(program).is_file() {
            return Err(DemoError::NoProgram { program, folder });
        }
    }
    folder.canonicalize().map_err(file("find", &folder))
}

/// Says why it failed and what to do; the exit code for it.
fn tell(screen: &mut Screen<Stdout>, error: &DemoError) -> ExitCode {
    let mut told = || {
        screen.gap()?;
        screen.bad(&error.to_string())?;
        if let Some(log) = error.log() {
            screen.note(&format!("The last lines of {}:", log.display()))?;
            tail(log).iter().try_for_each(|line| screen.quote(line))?;
        }
        screen.note(error.advice())
    };
    // A terminal that cannot be written to is told nothing.
    let _ = told();
    ExitCode::FAILURE
}
