//! The machine: what else runs on it, and what the least possible work costs on it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use nix::time::{ClockId, clock_gettime};

use crate::error::{Error, Result};
use crate::stats::median;

/// Signatures in one burst of the yardstick.
const BURST: u32 = 200;
/// Exchanges over a socket in the yardstick.
const EXCHANGES: usize = 500;
/// Request and answer there: about what a fetch of one SVID takes.
const REQUEST: usize = 250;
const ANSWER: usize = 1600;

/// What the least possible work costs, in µs of CPU.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    /// One P-256 signature.
    pub sign: f64,
    /// One P-256 verification.
    pub verify: f64,
    /// Accepting a connection on a Unix socket, one read, one write: the serving side.
    pub connection: f64,
    /// One read and one write on a connection that is there: the serving side.
    pub exchange: f64,
}

/// A P-256 key that signs again and again, as a measure of how fast the machine is right now.
pub struct Yardstick {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// µs of CPU and of time per signature, of every burst so far.
    bursts: Vec<(f64, f64)>,
}

impl Yardstick {
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .expect("a P-256 key can be generated");
        Self { key, random: SystemRandom::new(), bursts: Vec::new() }
    }

    /// Signs for some milliseconds and remembers what that took.
    pub fn burst(&mut self) {
        let burst = timed(BURST, || {
            let _ = self.key.sign(&self.random, b"yardstick").expect("a P-256 key signs");
        });
        self.bursts.push(burst);
    }

    /// µs of CPU per signature, of every burst so far.
    pub fn cpu(&self) -> Vec<f64> {
        self.bursts.iter().map(|it| it.0).collect()
    }

    /// µs of time per signature, of every burst so far.
    pub fn wall(&self) -> Vec<f64> {
        self.bursts.iter().map(|it| it.1).collect()
    }

    /// Measures the floors; `folder` is for a socket.
    ///
    /// # Errors
    /// When there can be no socket.
    pub fn floors(&mut self, folder: &Path) -> Result<Floors> {
        let signature = self.key.sign(&self.random, b"yardstick").expect("a P-256 key signs");
        let public = self.key.public_key().as_ref().to_vec();
        let mut verify = Vec::new();
        for _ in 0..5 {
            self.burst();
            verify.push(timed(BURST, || {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public)
                    .verify(b"yardstick", signature.as_ref())
                    .expect("the signature is right");
            }));
        }
        let verify: Vec<f64> = verify.into_iter().map(|it| it.0).collect();
        Ok(Floors {
            sign: median(&self.cpu()),
            verify: median(&verify),
            connection: socket(&folder.join("c"), true).map_err(Error::io("yardstick"))?,
            exchange: socket(&folder.join("e"), false).map_err(Error::io("yardstick"))?,
        })
    }
}

/// µs of CPU and of time per call of `work`.
fn timed(calls: u32, mut work: impl FnMut()) -> (f64, f64) {
    let (cpu, wall) = (thread_cpu(), Instant::now());
    for _ in 0..calls {
        work();
    }
    let per_call = |it: Duration| it.as_secs_f64() * 1e6 / f64::from(calls);
    (per_call(thread_cpu() - cpu), per_call(wall.elapsed()))
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map(Duration::from).expect("there is a clock of the thread's CPU time")
}

/// µs of CPU of the side that serves, per exchange, on a new connection each or on one.
fn socket(path: &Path, connection_each: bool) -> std::io::Result<f64> {
    let listener = UnixListener::bind(path)?;
    let (connections, exchanges) = if connection_each { (EXCHANGES, 1) } else { (1, EXCHANGES) };
    let serving = std::thread::spawn(move || -> std::io::Result<Duration> {
        let start = thread_cpu();
        for _ in 0..connections {
            let (mut stream, _) = listener.accept()?;
            for _ in 0..exchanges {
                stream.read_exact(&mut [0; REQUEST])?;
                stream.write_all(&[0; ANSWER])?;
            }
        }
        Ok(thread_cpu() - start)
    });
    for _ in 0..connections {
        let mut stream = UnixStream::connect(path)?;
        for _ in 0..exchanges {
            stream.write_all(&[0; REQUEST])?;
            stream.read_exact(&mut [0; ANSWER])?;
        }
    }
    let cpu = serving.join().expect("the serving thread does not panic")?;
    Ok(cpu.as_secs_f64() * 1e6 / EXCHANGES as f64)
}

/// CPU time of the whole machine since it started, from `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Spent on anything.
    pub used: Duration,
    /// Taken by the hypervisor for others.
    pub stolen: Duration,
}

impl Busy {
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").map_err(Error::io("/proc/stat"))?;
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal, in ticks of 10 ms.
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0) * 10;
        Ok(Self {
            used: Duration::from_millis(at(0) + at(1) + at(2) + at(5) + at(6)),
            stolen: Duration::from_millis(at(7)),
        })
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Kernel and processor, in words.
pub fn description() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown CPU", |it| it.1);
    format!("{model}, {} cores, Linux {}", cores(), kernel.trim())
}
