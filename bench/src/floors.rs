//! What the least possible work costs on this machine, with the library that the programs use.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use nix::time::{ClockId, clock_gettime};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::error::{Error, Result};
use crate::stats::median;

/// Signatures in one burst of the yardstick.
const BURST: u32 = 200;
/// Exchanges over a socket, and handshakes.
const EXCHANGES: usize = 500;
const HANDSHAKES: usize = 100;
/// Request and answer: about what a fetch of one SVID takes.
const REQUEST: usize = 250;
const ANSWER: usize = 1600;
/// Writes that are waited for until they are on the disk, and their length: a page of a database.
const SYNCS: usize = 30;
const PAGE: usize = 4096;

/// What the least possible work costs, in µs of CPU but where it says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    /// One P-256 signature, verification, and generation of a key.
    pub sign: f64,
    pub verify: f64,
    pub generate: f64,
    /// Accepting a connection on a Unix socket, one read, one write: the serving side.
    pub connection: f64,
    /// One read and one write on a connection that is there: the serving side.
    pub exchange: f64,
    /// The same over TCP and TLS 1.3.
    pub tls_exchange: f64,
    /// One TLS 1.3 handshake in which both sides show a P-256 certificate, with X25519 and with
    /// the hybrid that SPIRE's programs and ours agree on: the serving side, and both.
    pub handshake: Handshake,
    pub hybrid_handshake: Handshake,
    /// A page written and on the disk, in µs of time.
    pub sync: f64,
    /// Bytes; `None` when no scenario saw one.
    pub svid: Option<f64>,
    pub update: Option<f64>,
    pub entry: Option<f64>,
}

/// µs of CPU of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    pub server: f64,
    pub both: f64,
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

    /// Measures the floors; `folder` is for a socket and a file, and should be on the disk on
    /// which the databases are.
    ///
    /// # Errors
    /// When there can be no socket or file.
    pub fn floors(&mut self, folder: &Path) -> Result<Floors> {
        let signature = self.key.sign(&self.random, b"yardstick").expect("a P-256 key signs");
        let public = self.key.public_key().as_ref().to_vec();
        let (mut verify, mut generate) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            self.burst();
            verify.push(timed(BURST, || {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public)
                    .verify(b"yardstick", signature.as_ref())
                    .expect("the signature is right");
            }));
            generate.push(timed(BURST, || {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                    .expect("a P-256 key can be generated");
            }));
        }
        let cpu = |it: Vec<(f64, f64)>| median(&it.into_iter().map(|it| it.0).collect::<Vec<_>>());
        let failed = || Error::io("limits");
        let classic = Tls::new(X25519)?;
        Ok(Floors {
            sign: median(&self.cpu()),
            verify: cpu(verify),
            generate: cpu(generate),
            connection: socket(&folder.join("c"), true).map_err(failed())?,
            exchange: socket(&folder.join("e"), false).map_err(failed())?,
            tls_exchange: classic.exchange().map_err(failed())?,
            handshake: classic.handshake().map_err(failed())?,
            hybrid_handshake: Tls::new(X25519MLKEM768)?.handshake().map_err(failed())?,
            sync: sync(&folder.join("s")).map_err(failed())?,
            svid: None,
            update: None,
            entry: None,
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
                serve(&mut stream)?;
            }
        }
        Ok(thread_cpu() - start)
    });
    for _ in 0..connections {
        let mut stream = UnixStream::connect(path)?;
        for _ in 0..exchanges {
            ask(&mut stream)?;
        }
    }
    let cpu = serving.join().expect("the serving thread does not panic")?;
    Ok(cpu.as_secs_f64() * 1e6 / EXCHANGES as f64)
}

fn serve(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    stream.read_exact(&mut [0; REQUEST])?;
    stream.write_all(&[0; ANSWER])?;
    stream.flush()
}

fn ask(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    stream.write_all(&[0; REQUEST])?;
    stream.flush()?;
    stream.read_exact(&mut [0; ANSWER])
}

/// µs until a page that was written is on the disk.
fn sync(path: &Path) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[1; PAGE])?;
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&took))
}

/// Two sides that show each other certificates of one CA, and remember nothing of one another.
struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    fn new(group: &'static dyn SupportedKxGroup) -> Result<Self> {
        Self::build(group)
            .map_err(|error| Error::io("limits of TLS")(std::io::Error::other(error.to_string())))
    }

    fn build(
        group: &'static dyn SupportedKxGroup,
    ) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let ca_key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let leaf = || -> std::result::Result<_, Box<dyn std::error::Error>> {
            let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut leaf = CertificateParams::new(vec!["localhost".into()])?;
            leaf.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let chain: Vec<CertificateDer<'static>> =
                vec![leaf.signed_by(&key, &issuer)?.der().clone()];
            Ok((chain, PrivateKeyDer::try_from(key.serialize_der())?))
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let roots = Arc::new(roots);
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![group],
            ..rustls::crypto::aws_lc_rs::default_provider()
        });
        let (versions, (chain, key)) = ([&rustls::version::TLS13], leaf()?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let (chain, key) = leaf()?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// µs of CPU of handshakes, accepting and closing the connection included.
    fn handshake(&self) -> std::io::Result<Handshake> {
        let (server, both) = self.connections(HANDSHAKES, 0)?;
        let per = |cpu: Duration| cpu.as_secs_f64() * 1e6 / HANDSHAKES as f64;
        Ok(Handshake { server: per(server), both: per(both) })
    }

    /// µs of CPU of the serving side for a request and its answer on a connection that is there.
    fn exchange(&self) -> std::io::Result<f64> {
        let (without, _) = self.connections(1, 0)?;
        let (with, _) = self.connections(1, EXCHANGES)?;
        Ok(with.saturating_sub(without).as_secs_f64() * 1e6 / EXCHANGES as f64)
    }

    /// CPU time of the serving side, and of both, for so many connections one after the other.
    fn connections(
        &self,
        connections: usize,
        exchanges: usize,
    ) -> std::io::Result<(Duration, Duration)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let config = Arc::clone(&self.server);
        let serving = std::thread::spawn(move || -> std::io::Result<Duration> {
            let start = thread_cpu();
            for _ in 0..connections {
                let (tcp, _) = listener.accept()?;
                tcp.set_nodelay(true)?;
                let connection = ServerConnection::new(Arc::clone(&config));
                let mut tls = StreamOwned::new(connection.map_err(std::io::Error::other)?, tcp);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                for _ in 0..exchanges {
                    serve(&mut tls)?;
                }
                // The other side has seen all when it closes.
                let _ = tls.sock.read(&mut [0; 64])?;
            }
            Ok(thread_cpu() - start)
        });
        let start = thread_cpu();
        for _ in 0..connections {
            let tcp = TcpStream::connect(address)?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            let connection = ClientConnection::new(Arc::clone(&self.client), name);
            let mut tls = StreamOwned::new(connection.map_err(std::io::Error::other)?, tcp);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock)?;
            }
            for _ in 0..exchanges {
                ask(&mut tls)?;
            }
        }
        let client = thread_cpu() - start;
        let server = serving.join().expect("the serving thread does not panic")?;
        Ok((server, server + client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_can_be_measured_here() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let floors = Yardstick::new().floors(folder.path()).expect("limits");
        assert!(floors.handshake.server > 0.0 && floors.handshake.both > 0.0);
        assert!(floors.sign > 0.0 && floors.generate > 0.0 && floors.sync > 0.0);
    }
}
