//! The PROXY protocol, v1 and v2, on what load balancers in trusted ranges send before a handshake
//! (fact SC-25; the specification is HAProxy's `proxy-protocol.txt`).
//!
//! The parser is told bytes and says how many more it wants, so that not one byte of the handshake
//! is taken; it holds at most `MAX_V2` bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The first bytes of each version; no TLS record begins with the first of either.
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of v1, with its end.
const MAX_V1: usize = 107;

/// The bytes of a v2 header before its addresses, and the most that may follow.
const V2_HEAD: usize = 16;
const MAX_V2: usize = 4096;

/// Ranges of addresses.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Vec<(IpAddr, u8)>);

impl Ranges {
    /// Ranges of an address and the number of leading bits that its members share with it.
    pub fn new(ranges: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        Self(ranges.into_iter().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is in one of them. An IPv4 address in the form of an IPv6 one counts as
    /// itself.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(range, bits)| match (range, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let differ = range.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(*bits).min(32)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differ = range.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(*bits).min(128)
            }
            _ => false,
        })
    }
}

/// Why a connection ends before its handshake.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The sender is in no trusted range.
    #[error("this source may not send a PROXY protocol header")]
    Untrusted,
    /// It is no header; says what is wrong.
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// The connection broke.
    #[error("reading the PROXY protocol header: {0}")]
    Read(#[from] io::Error),
}

/// Reads a header, if there is one, and answers whom it names: none if there is no header, or one
/// that names nobody (the proxy's own connection).
///
/// # Errors
/// When the header is malformed, or its sender is not `trusted`.
pub(crate) async fn read(
    stream: &mut TcpStream,
    trusted: bool,
) -> Result<Option<SocketAddr>, ProxyError> {
    let mut first = [0];
    // Does not take the byte away from the handshake.
    if stream.peek(&mut first).await? == 0 || ![V1[0], V2[0]].contains(&first[0]) {
        return Ok(None);
    }
    if !trusted {
        return Err(ProxyError::Untrusted);
    }
    let mut header = Vec::new();
    loop {
        match next(&header)? {
            Step::Done(client) => return Ok(client),
            Step::More(count) => {
                let read = header.len();
                header.resize(read + count, 0);
                stream.read_exact(&mut header[read..]).await?;
            }
        }
    }
}

/// What to do with the bytes of a header that were read so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Read this many more; at least one.
    More(usize),
    /// The header is whole.
    Done(Option<SocketAddr>),
}

/// Looks at the bytes of a header that were read so far.
///
/// # Errors
/// [`ProxyError::Malformed`], as soon as it can be known.
pub fn next(header: &[u8]) -> Result<Step, ProxyError> {
    if header.is_empty() {
        return Ok(Step::More(V1.len()));
    }
    if header[0] == V1[0] { v1(header) } else { v2(header) }
}

fn malformed<T>(what: &'static str) -> Result<T, ProxyError> {
    Err(ProxyError::Malformed(what))
}

fn v1(header: &[u8]) -> Result<Step, ProxyError> {
    let known = header.len().min(V1.len());
    if header[..known] != V1[..known] {
        return malformed("unknown signature");
    }
    let Some(line) = header.strip_suffix(b"\n") else {
        if header.len() >= MAX_V1 {
            return malformed("the line is too long");
        }
        return Ok(Step::More(1));
    };
    let Some(line) = line.strip_suffix(b"\r") else { return malformed("no CR before LF") };
    let Ok(line) = std::str::from_utf8(line) else { return malformed("not ASCII") };
    let mut words = line.split(' ').skip(1);
    let (family, source, target) = (words.next(), words.next(), words.next());
    let (source_port, target_port) = (words.next(), words.next());
    let client = match family {
        // Whatever follows is not looked at.
        Some("UNKNOWN") => return Ok(Step::Done(None)),
        Some("TCP4") => {
            let _: Ipv4Addr = address(target)?;
            IpAddr::V4(address(source)?)
        }
        Some("TCP6") => {
            let _: Ipv6Addr = address(target)?;
            IpAddr::V6(address(source)?)
        }
        _ => return malformed("unknown address family"),
    };
    port(target_port)?;
    let client = SocketAddr::new(client.to_canonical(), port(source_port)?);
    if words.next().is_some() {
        return malformed("words after the ports");
    }
    Ok(Step::Done(Some(client)))
}

fn address<T: FromStr>(word: Option<&str>) -> Result<T, ProxyError> {
    let parsed = word.and_then(|word| word.parse().ok());
    parsed.ok_or(ProxyError::Malformed("not an address of the family"))
}

fn port(word: Option<&str>) -> Result<u16, ProxyError> {
    let digits = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = word.filter(digits).and_then(|word| word.parse().ok());
    parsed.ok_or(ProxyError::Malformed("not a port"))
}

fn v2(header: &[u8]) -> Result<Step, ProxyError> {
    let known = header.len().min(V2.len());
    if header[..known] != V2[..known] {
        return malformed("unknown signature");
    }
    let Some(head) = header.first_chunk::<V2_HEAD>() else {
        return Ok(Step::More(V2_HEAD - header.len()));
    };
    let proxied = match head[12] {
        0x20 => false,
        0x21 => true,
        _ => return malformed("unknown version or command"),
    };
    // Family and transport; only what the specification names.
    let size = match head[13] {
        0x00 if proxied => return malformed("no address family"),
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        0x12 | 0x22 | 0x32 if proxied => return malformed("not a stream"),
        0x12 | 0x22 | 0x32 => 0,
        _ => return malformed("unknown address family"),
    };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > MAX_V2 || (proxied && length < size) {
        return malformed("invalid length");
    }
    if header.len() < V2_HEAD + length {
        return Ok(Step::More(V2_HEAD + length - header.len()));
    }
    if !proxied {
        return Ok(Step::Done(None));
    }
    let addresses = &header[V2_HEAD..];
    let client = match head[13] {
        0x11 => {
            let source: [u8; 4] = part(addresses, 0)?;
            SocketAddr::new(Ipv4Addr::from(source).into(), u16::from_be_bytes(part(addresses, 8)?))
        }
        0x21 => {
            let source: [u8; 16] = part(addresses, 0)?;
            let port = u16::from_be_bytes(part(addresses, 32)?);
            SocketAddr::new(IpAddr::from(source).to_canonical(), port)
        }
        // A Unix socket of the proxy's is nobody's address.
        _ => return Ok(Step::Done(None)),
    };
    Ok(Step::Done(Some(client)))
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ProxyError> {
    let part = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    part.ok_or(ProxyError::Malformed("invalid length"))
}

#[cfg(test)]
mod tests;
