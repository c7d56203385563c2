//! Profiles: `/debug/pprof/` on localhost, and dumps into `.profiles`.
//!
//! Names and files are those of SPIRE. `cpu` is a profile by sampling;
//! `goroutine` and `threadcreate` list this process's threads, `heap` its
//! memory. What only Go's runtime has (`block`, `mutex`, `trace`) is answered
//! by saying so.

mod cpu;
mod proto;
mod threads;

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use steeple_config::ProfilingConfig;
use steeple_runtime::{Tasks, Watcher, fsx};
use steeple_telemetry::process::Process;
use steeple_web::{Limits, Request, Response, reply, serve};
use tokio::sync::Mutex;

use crate::{Program, bind_in_time};

/// Where dumps go, in the working directory.
const DIRECTORY: &str = ".profiles";

/// Profiles that SPIRE has by name.
const NAMES: [&str; 7] = ["goroutine", "threadcreate", "heap", "block", "mutex", "trace", "cpu"];

/// The longest CPU profile that a request may ask for, in seconds.
const MAX_SECONDS: u64 = 600;

/// Serves and dumps what the configuration asks for, until the drain begins.
pub fn start(config: &ProfilingConfig, program: &Program, tasks: &Tasks, drain: &Watcher) {
    let busy = Arc::new(Mutex::new(()));
    if let Some(port) = config.port {
        tasks.spawn("profiling", listen(port, Arc::clone(&busy), drain.clone()));
    }
    if let Some(frequency) = config.frequency {
        let names: Vec<String> =
            config.names.iter().filter(|name| NAMES.contains(&name.as_str())).cloned().collect();
        if names.is_empty() {
            let error = "there are no dumpers active";
            tracing::warn!(error, "Failed to run profiling");
            return;
        }
        let dumper = Dumper {
            directory: DIRECTORY.into(),
            tag: program.name,
            names,
            frequency,
            clock: Arc::clone(&program.clock),
            busy,
        };
        tasks.spawn("profile_dumps", dumper.run(drain.clone()));
    }
}

async fn listen(port: u16, busy: Arc<Mutex<()>>, drain: Watcher) {
    let warn = |error: &std::io::Error| {
        tracing::warn!(%error, "Unable to serve profiling server");
    };
    let listener = match bind_in_time(format!("localhost:{port}"), drain.clone(), warn).await {
        Ok(Some(listener)) => listener,
        Ok(None) => return,
        Err(error) => return warn(&error),
    };
    let limits = Limits { connections: 16, ..Limits::default() };
    let handler = move |request: Request| answer(request, Arc::clone(&busy));
    serve(listener, None, handler, limits, drain).await;
}

async fn answer(request: Request, busy: Arc<Mutex<()>>) -> Response {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    let Some(name) = uri.path().strip_prefix("/debug/pprof/") else {
        return match uri.path() {
            "/debug/pprof" => moved(),
            _ => reply::not_found(),
        };
    };
    match name {
        "" => reply::content("text/html; charset=utf-8", index()),
        "profile" => cpu_profile(query, busy).await,
        "cmdline" => {
            let arguments: Vec<String> = std::env::args().collect();
            reply::content("text/plain; charset=utf-8", arguments.join("\0"))
        }
        "heap" | "allocs" => reply::content("text/plain; charset=utf-8", memory()),
        "goroutine" | "threadcreate" => match parameter(query, "debug") {
            None | Some("0") => binary(threads::profile().and_then(|it| gzip(&it)), name),
            Some(_) => reply::content("text/plain; charset=utf-8", threads::text()),
        },
        "block" | "mutex" | "trace" | "symbol" => reply::error(
            StatusCode::NOT_FOUND,
            &format!("Profile {name} tells of Go's runtime, which this process does not have"),
        ),
        _ => reply::error(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

async fn cpu_profile(query: &str, busy: Arc<Mutex<()>>) -> Response {
    let seconds = match parameter(query, "seconds").unwrap_or("30").parse::<u64>() {
        Ok(seconds @ 1..=MAX_SECONDS) => seconds,
        _ => {
            let text = format!("seconds must be a number from 1 to {MAX_SECONDS}");
            return reply::error(StatusCode::BAD_REQUEST, &text);
        }
    };
    // One at a time: the sampling timer belongs to the whole process.
    let Ok(_one) = busy.try_lock() else {
        let text = "Could not enable CPU profiling: cpu profiling already in use";
        return reply::error(StatusCode::INTERNAL_SERVER_ERROR, text);
    };
    let profile = cpu::record(Duration::from_secs(seconds)).await;
    binary(profile.and_then(|profile| gzip(&profile)), "profile")
}

fn binary(profile: io::Result<Vec<u8>>, name: &str) -> Response {
    match profile {
        Ok(bytes) => {
            let mut response = reply::content("application/octet-stream", bytes);
            let file = format!("attachment; filename=\"{name}\"");
            if let Ok(value) = file.parse() {
                response.headers_mut().insert(http::header::CONTENT_DISPOSITION, value);
            }
            response
        }
        Err(error) => reply::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("Could not enable CPU profiling: {error}"),
        ),
    }
}

fn moved() -> Response {
    let mut response = reply::status(StatusCode::MOVED_PERMANENTLY);
    let value = http::HeaderValue::from_static("/debug/pprof/");
    response.headers_mut().insert(http::header::LOCATION, value);
    response
}

fn index() -> String {
    let rows = [
        ("profile?seconds=30", "CPU profile by sampling, for <code>go tool pprof</code>"),
        ("goroutine?debug=1", "Threads, with their state and CPU time, and the number of tasks"),
        ("goroutine", "The same for <code>go tool pprof</code>"),
        ("heap?debug=1", "Memory, as the system sees it"),
        ("cmdline", "The command line"),
    ];
    let rows: String = rows
        .iter()
        .map(|(link, text)| {
            format!("<tr><td><a href='{link}'>{link}</a></td><td>{text}</td></tr>\n")
        })
        .collect();
    format!(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<br>\n\
         <table>\n{rows}</table>\n</body>\n</html>\n"
    )
}

fn memory() -> String {
    let process = Process::read();
    let maps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    format!(
        "anonymous memory in RAM: {} bytes\nmemory in RAM: {} bytes\naddress space: {} bytes\n\n\
         /proc/self/smaps_rollup:\n{maps}",
        process.anonymous, process.resident, process.virtual_memory
    )
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

pub(crate) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Writes profiles again and again.
struct Dumper {
    directory: PathBuf,
    tag: &'static str,
    names: Vec<String>,
    frequency: Duration,
    clock: Arc<dyn steeple_runtime::Clock>,
    busy: Arc<Mutex<()>>,
}

impl Dumper {
    async fn run(self, mut drain: Watcher) {
        loop {
            let round = self.round();
            tokio::select! {
                () = round => {}
                () = drain.signalled() => return,
            }
        }
    }

    /// One period: its CPU profile, and at its end all others.
    async fn round(&self) {
        let cpu = self.names.iter().any(|name| name == "cpu");
        let one = if cpu { self.busy.try_lock().ok() } else { None };
        let profile = match one {
            Some(_one) => Some(cpu::record(self.frequency).await),
            None => {
                tokio::time::sleep(self.frequency).await;
                None
            }
        };
        let time = self.clock.now();
        for name in &self.names {
            let contents = match name.as_str() {
                "cpu" => profile.as_ref().and_then(|it| it.as_ref().ok().cloned()),
                "heap" => proto::memory(&Process::read()).ok(),
                "goroutine" | "threadcreate" => threads::profile().ok(),
                // Only Go's runtime has these: no file is better than an empty one.
                _ => None,
            };
            let Some(contents) = contents else { continue };
            let file = self.directory.join(file_name(time, self.tag, name));
            if let Err(error) = write(&self.directory, &file, &contents) {
                tracing::warn!(%error, file = %file.display(), "Failed to write profile");
            }
        }
    }
}

fn write(directory: &Path, file: &Path, contents: &[u8]) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o750).create(directory)?;
    // Names can be guessed, and a link in the place of one is not followed.
    fsx::write_atomic(file, &gzip(contents)?, 0o640)
}

/// `2026-11-22_091137_server_cpu.pb.gz`
fn file_name(time: SystemTime, tag: &str, name: &str) -> String {
    let time = time::OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02}_{:02}{:02}{:02}_{tag}_{name}.pb.gz",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_have_spires_names() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_338_697);
        assert_eq!(file_name(time, "server", "cpu"), "2026-11-22_091137_server_cpu.pb.gz");
    }

    #[test]
    fn queries_are_read() {
        assert_eq!(parameter("a=1&seconds=5", "seconds"), Some("5"));
        assert_eq!(parameter("secondss=5", "seconds"), None);
    }

    #[tokio::test]
    async fn a_round_writes_what_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let dumper = Dumper {
            directory: directory.path().join(".profiles"),
            tag: "agent",
            names: ["heap", "goroutine", "block"].map(str::to_owned).to_vec(),
            frequency: Duration::from_millis(300),
            clock: Arc::new(steeple_runtime::ManualClock::default()),
            busy: Arc::default(),
        };
        dumper.round().await;
        let mut files: Vec<String> = std::fs::read_dir(directory.path().join(".profiles"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        for file in &files {
            assert_eq!(fsx::mode(&dumper.directory.join(file)).unwrap(), 0o640);
        }
        assert_eq!(
            files,
            ["goroutine", "heap"].map(|name| format!("2026-01-01_000000_agent_{name}.pb.gz"))
        );
    }
}
