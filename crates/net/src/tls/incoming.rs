//! Accepting TLS connections: handshakes in tasks of their own, bounded in time and number.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use steeple_pki::Certificate;
use steeple_pki::x509::CertificateError;
use steeple_runtime::drain::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::ServerTls;
use crate::proxy::{self, Ranges};
use crate::serve::{Accept, pause_after};

/// What handshakes may cost.
#[derive(Clone, Copy, Debug)]
pub struct TlsLimits {
    /// From accepting to the end of the handshake.
    pub deadline: Duration,
    /// Handshakes under way at once; more wait in the kernel's queue.
    pub handshakes: usize,
    /// Handshakes under way at once from one address; more are closed unanswered, so that one
    /// host that never finishes its handshakes cannot keep all others out.
    pub handshakes_per_address: usize,
    /// Connections of one address, from the handshake to their end; more are closed unanswered.
    pub connections_per_address: usize,
}

impl Default for TlsLimits {
    fn default() -> Self {
        let deadline = Duration::from_secs(10);
        Self {
            deadline,
            handshakes: 1024,
            handshakes_per_address: 256,
            connections_per_address: usize::MAX,
        }
    }
}

/// A listening TCP socket whose connections speak TLS.
#[derive(Debug)]
pub struct TlsIncoming {
    listener: TcpListener,
    acceptor: Acceptor,
    done: mpsc::Receiver<TlsStream>,
}

impl TlsIncoming {
    /// Shakes hands as `tls` says with whoever connects to `listener`.
    pub fn new(listener: TcpListener, tls: &ServerTls, limits: TlsLimits, tasks: Tasks) -> Self {
        let (sender, done) = mpsc::channel(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let acceptor = Acceptor {
            tls: TlsAcceptor::from(Arc::clone(&tls.config)),
            slots: Arc::new(Semaphore::new(limits.handshakes)),
            turns: Arc::new(Semaphore::new(cores)),
            shaking: Counts::new(limits.handshakes_per_address),
            connections: Counts::new(limits.connections_per_address),
            proxies: None,
            limits,
            tasks,
            done: sender,
        };
        Self { listener, acceptor, done }
    }

    /// Takes a client's address from the PROXY protocol header that a proxy in `trusted` sends;
    /// the connection of anybody else who sends one ends.
    #[must_use]
    pub fn behind(mut self, trusted: Ranges) -> Self {
        self.acceptor.proxies = (!trusted.is_empty()).then(|| Arc::new(trusted));
        self
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Accept for TlsIncoming {
    type Io = TlsStream;

    async fn accept(&mut self) -> TlsStream {
        loop {
            let next = async {
                let slot = Arc::clone(&self.acceptor.slots).acquire_owned().await;
                (slot.expect("the semaphore is never closed"), self.listener.accept().await)
            };
            tokio::select! {
                stream = self.done.recv() => {
                    return stream.expect("the acceptor holds a sender");
                }
                (slot, accepted) = next => match accepted {
                    Ok((stream, address)) => self.acceptor.begin(stream, address, slot),
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }
}

#[derive(Clone)]
struct Acceptor {
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    /// Who may compute.
    turns: Arc<Semaphore>,
    shaking: Counts,
    connections: Counts,
    proxies: Option<Arc<Ranges>>,
    limits: TlsLimits,
    tasks: Tasks,
    done: mpsc::Sender<TlsStream>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Acceptor {
    fn begin(&self, stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        let proxy = self.proxies.as_ref().is_some_and(|ranges| ranges.contain(address.ip()));
        // Behind a proxy there are many, whose own addresses are counted once they are known.
        let counted = if proxy { None } else { self.shaking.count(address.ip()) };
        if counted.is_none() && !proxy {
            tracing::debug!(%address, "Too many unfinished TLS handshakes from this address");
            return;
        }
        let this = self.clone();
        self.tasks.spawn_isolated("tls_handshake", async move {
            // Latency matters more than a segment saved; it works without.
            let _ = stream.set_nodelay(true);
            let shaken = tokio::select! {
                shaken = timeout(this.limits.deadline, this.shake(stream, address, proxy)) => shaken,
                // Nobody will serve it.
                () = this.done.closed() => return,
            };
            match shaken {
                Ok(Ok(stream)) => {
                    drop((slot, counted));
                    // Fails when nobody will serve it any more.
                    let _ = this.done.send(stream).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }

    async fn shake(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        proxy: bool,
    ) -> io::Result<TlsStream> {
        let client = match &self.proxies {
            None => None,
            Some(_) => proxy::read(&mut stream, proxy).await.map_err(io::Error::other)?,
        };
        let client = client.unwrap_or(address);
        let _counted = match proxy.then(|| self.shaking.count(client.ip())) {
            Some(None) => return Err(io::Error::other("too many handshakes from this address")),
            counted => counted,
        };
        let counted = self.connections.count(client.ip());
        let counted = counted.ok_or_else(|| io::Error::other("too many from this address"))?;
        let shaking = Box::pin(self.tls.accept(stream));
        let stream = InTurn { turns: &self.turns, turn: None, work: shaking }.await?;
        Ok(TlsStream::new(stream, client, counted))
    }
}

type Turn<'a> =
    Pin<Box<dyn Future<Output = Result<SemaphorePermit<'a>, AcquireError>> + Send + 'a>>;

/// Computes only while it has one of the turns, of which there are as many as cores: of a thousand
/// handshakes that could go on, so many stand before the work of those who are connected.
struct InTurn<'a, F> {
    turns: &'a Semaphore,
    turn: Option<Turn<'a>>,
    work: F,
}

impl<'a, F: Future + Unpin> Future for InTurn<'a, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _turn = match &mut this.turn {
            None => match this.turns.try_acquire() {
                Ok(turn) => turn,
                Err(_taken) => {
                    let mut turn: Turn<'a> = Box::pin(this.turns.acquire());
                    let Poll::Ready(taken) = turn.as_mut().poll(cx) else {
                        this.turn = Some(turn);
                        return Poll::Pending;
                    };
                    taken.expect("the semaphore is never closed")
                }
            },
            Some(turn) => {
                let taken = ready!(turn.as_mut().poll(cx));
                this.turn = None;
                taken.expect("the semaphore is never closed")
            }
        };
        Pin::new(&mut this.work).poll(cx)
    }
}

/// How many of something each address has.
#[derive(Clone)]
struct Counts {
    most: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Counts {
    fn new(most: usize) -> Self {
        Self { most, addresses: Arc::default() }
    }

    /// Counts one more for as long as the answer lives; none if there are too many.
    fn count(&self, address: IpAddr) -> Option<Counted> {
        let address = address.to_canonical();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { address, addresses: Arc::clone(&self.addresses) })
    }
}

#[derive(Debug)]
struct Counted {
    address: IpAddr,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Who is on the other end of a TLS connection: an address, and the chain whose leaf key it holds.
/// Cheap to clone; handlers find it among the request's extensions.
#[derive(Clone, Debug)]
pub struct TlsPeer(Arc<PeerInner>);

#[derive(Debug)]
struct PeerInner {
    address: SocketAddr,
    chain: Vec<CertificateDer<'static>>,
    parsed: OnceLock<Result<Vec<Certificate>, CertificateError>>,
    finding: OnceCell<Arc<dyn Any + Send + Sync>>,
}

impl TlsPeer {
    /// A peer at `address` with a chain in DER, leaf first; no certificates if it showed none.
    pub fn new(address: SocketAddr, chain: Vec<CertificateDer<'static>>) -> Self {
        Self(Arc::new(PeerInner {
            address,
            chain,
            parsed: OnceLock::new(),
            finding: OnceCell::new(),
        }))
    }

    /// The address that it connected from.
    pub fn remote_addr(&self) -> SocketAddr {
        self.0.address
    }

    /// The certificates that it showed, in DER, leaf first. They are not verified.
    pub fn chain_der(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// The certificates that it showed, leaf first, parsed once per connection and kept with it:
    /// some KiB. They are not verified.
    ///
    /// # Errors
    /// When one of them cannot be parsed.
    pub fn chain(&self) -> Result<&[Certificate], &CertificateError> {
        self.0.parsed.get_or_init(|| self.parse_chain()).as_deref()
    }

    /// As [`Self::chain`], for whoever looks at them once, and keeps what counts by
    /// [`Self::finding`].
    ///
    /// # Errors
    /// When one of them cannot be parsed.
    pub fn parse_chain(&self) -> Result<Vec<Certificate>, CertificateError> {
        self.0.chain.iter().map(|it| Certificate::from_der(it.to_vec())).collect()
    }
}

impl TlsPeer {
    /// What a server found out about this peer, found out once per connection; a failure is not
    /// kept. A connection has one kind of finding: with a second one, `find` is asked every time.
    ///
    /// # Errors
    /// Those of `find`.
    pub async fn finding<T, E, F>(&self, find: F) -> Result<T, E>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        if let Some(kept) = self.found() {
            return Ok(kept);
        }
        let found = find.await?;
        // When another call was faster, both have found the same.
        let _ = self.0.finding.set(Arc::new(found.clone()));
        Ok(found)
    }
}

impl TlsPeer {
    /// What [`Self::finding`] found out, if that has been.
    pub fn found<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.0.finding.get()?.downcast_ref::<T>().cloned()
    }
}

/// A TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsStream {
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: TlsPeer,
    _counted: Counted,
}

impl TlsStream {
    fn new(
        stream: tokio_rustls::server::TlsStream<TcpStream>,
        address: SocketAddr,
        counted: Counted,
    ) -> Self {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|it| it.clone().into_owned()).collect();
        Self { stream, peer: TlsPeer::new(address, chain), _counted: counted }
    }

    /// Who is on the other end.
    pub fn peer(&self) -> &TlsPeer {
        &self.peer
    }

    /// The protocol that was agreed on with the client, if there was one.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }
}

impl Connected for TlsStream {
    type ConnectInfo = TlsPeer;

    fn connect_info(&self) -> TlsPeer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
