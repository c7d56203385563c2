//! Makes the `:authority` of gRPC's C core and Java palatable to h2, on Unix sockets.
//!
//! Those clients send the socket's path as `:authority`, percent-encoded (`tmp%2Fapi.sock`) or
//! plain, which h2 refuses as malformed. [`AuthorityFilter`] follows the client's frames and, in a
//! literal `:authority`, turns `%` and `/` into `-`. A literal names its field by index 1 of the
//! static table (Java) or spells the name out (the C core does). In HPACK's Huffman code (RFC 7541
//! appendix B) all three characters are six bits long, so that nothing moves, whichever form the
//! value has; and as HPACK's dynamic table is filled from the altered bytes, both ends stay in
//! step.
//!
//! The filter is no parser of the protocol: what it does not understand it leaves alone from there
//! on, for h2 to refuse.

mod huffman;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::Filtered;

use huffman::Walk;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NAME: &[u8] = b":authority";
/// `:authority` in HPACK's Huffman code.
const NAME_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// The largest frame that we accept; h2's default, which `serve` does not change.
const MAX_FRAME: u32 = 16_384;
/// The most bytes that may wait for the rest of a Huffman symbol: the byte it began in, padding, a
/// frame header, and some empty frames. Beyond that the symbol is left as it is.
const MAX_HELD: usize = 512;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Follows one connection's bytes from client to server.
#[derive(Clone, Debug)]
pub struct AuthorityFilter {
    state: State,
}

impl AuthorityFilter {
    /// A filter that expects the client's preface.
    pub const fn new() -> Self {
        let frame = Frame::Preface { seen: 0 };
        Self { state: State { frame, open: None, block: Block::Field } }
    }

    /// Rewrites `bytes` in place and returns how many of them, from the front, are final.
    ///
    /// The rest (at most 512 bytes, and mostly none) depends on what comes next: present it again
    /// in front of the next bytes, or, at the end of the stream, pass it on as it is.
    pub fn rewrite(&mut self, bytes: &mut [u8]) -> usize {
        let mut cursor = Cursor { at: 0, last_coded: None, mark: None };
        while cursor.at < bytes.len() {
            self.state.step(bytes, &mut cursor);
        }
        match cursor.mark {
            Some((at, before)) if self.is_following() && bytes.len() - at <= MAX_HELD => {
                self.state = before;
                at
            }
            _ => bytes.len(),
        }
    }
}

impl AuthorityFilter {
    const fn is_following(&self) -> bool {
        !matches!(self.state.frame, Frame::Opaque)
    }
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a call of `rewrite` stands; nothing here outlives the call.
struct Cursor {
    at: usize,
    /// Where the byte before the current one of a Huffman-coded `:authority` lies.
    last_coded: Option<usize>,
    /// A byte that cannot be released yet, and the state before it.
    mark: Option<(usize, State)>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    frame: Frame,
    /// The stream whose header block is open, between HEADERS and the last CONTINUATION.
    open: Option<u32>,
    block: Block,
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    Preface {
        seen: u8,
    },
    Header {
        bytes: [u8; 9],
        seen: u8,
    },
    PadLength {
        left: u32,
        priority: bool,
        last: bool,
    },
    Priority {
        skip: u8,
        left: u32,
        pad: u32,
        last: bool,
    },
    Fragment {
        left: u32,
        pad: u32,
        last: bool,
    },
    Skip {
        left: u32,
    },
    /// Not understood: everything passes.
    Opaque,
}

/// What a header block's next byte is (RFC 7541 section 6).
#[derive(Clone, Copy, Debug)]
enum Block {
    Field,
    Length { text: Text },
    Integer { of: Integer, value: u32, shift: u8 },
    Name { left: u32, seen: u8, coded: bool, same: bool },
    Other { left: u32 },
    Plain { left: u32 },
    Coded { left: u32, walk: Walk },
}

#[derive(Clone, Copy, Debug)]
enum Integer {
    /// An indexed field or a table size: nothing follows.
    Complete,
    /// A name's index, which cannot be `:authority`'s if it takes more than one byte.
    NameIndex,
    Length {
        text: Text,
        coded: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value,
    Authority,
}

const FRAME_START: Frame = Frame::Header { bytes: [0; 9], seen: 0 };

impl State {
    /// Takes at least one byte.
    fn step(&mut self, bytes: &mut [u8], cursor: &mut Cursor) {
        let available = bytes.len() - cursor.at;
        let byte = bytes[cursor.at];
        match self.frame {
            Frame::Opaque => cursor.at = bytes.len(),
            Frame::Preface { seen } => {
                cursor.at += 1;
                self.frame = match usize::from(seen) {
                    seen if byte != PREFACE[seen] => Frame::Opaque,
                    seen if seen + 1 == PREFACE.len() => FRAME_START,
                    _ => Frame::Preface { seen: seen + 1 },
                };
            }
            Frame::Header { bytes: mut header, seen } => {
                cursor.at += 1;
                header[usize::from(seen)] = byte;
                self.frame = if seen == 8 {
                    self.begin_frame(header)
                } else {
                    Frame::Header { bytes: header, seen: seen + 1 }
                };
            }
            Frame::PadLength { left, priority, last } => {
                cursor.at += 1;
                self.frame = begin_headers(left - 1, u32::from(byte), priority, last);
                self.finish_fragment();
            }
            Frame::Priority { skip, left, pad, last } => {
                cursor.at += 1;
                self.frame = if skip == 1 {
                    Frame::Fragment { left, pad, last }
                } else {
                    Frame::Priority { skip: skip - 1, left, pad, last }
                };
                self.finish_fragment();
            }
            Frame::Fragment { left, pad, last } => {
                let taken = self.step_block(bytes, cursor, left);
                if !matches!(self.frame, Frame::Opaque) {
                    self.frame = Frame::Fragment { left: left - taken, pad, last };
                    self.finish_fragment();
                }
            }
            Frame::Skip { left } => {
                let taken = usize::try_from(left).map_or(available, |left| left.min(available));
                cursor.at += taken;
                self.frame = skip(left - count(taken));
            }
        }
    }

    fn begin_frame(&mut self, header: [u8; 9]) -> Frame {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let left = u32::from_be_bytes([0, l0, l1, l2]);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        let last = flags & END_HEADERS != 0;
        if left > MAX_FRAME {
            return Frame::Opaque;
        }
        match (kind, self.open) {
            (CONTINUATION, Some(open)) if open == stream => {
                self.frame = Frame::Fragment { left, pad: 0, last };
            }
            (CONTINUATION, _) | (_, Some(_)) => return Frame::Opaque,
            (HEADERS, None) => {
                self.open = Some(stream);
                let priority = flags & PRIORITY != 0;
                self.frame = match flags & PADDED != 0 {
                    true if left == 0 => Frame::Opaque,
                    true => Frame::PadLength { left, priority, last },
                    false => begin_headers(left, 0, priority, last),
                };
            }
            _ => self.frame = skip(left),
        }
        self.finish_fragment();
        self.frame
    }

    /// Leaves a fragment that has no bytes left; a block must end where a field does.
    fn finish_fragment(&mut self) {
        if let Frame::Fragment { left: 0, pad, last } = self.frame {
            self.frame = skip(pad);
            if last {
                self.open = None;
                if !matches!(self.block, Block::Field) {
                    self.frame = Frame::Opaque;
                }
            }
        }
    }

    /// Takes some bytes of a header block, at most `limit`; returns how many.
    fn step_block(&mut self, bytes: &mut [u8], cursor: &mut Cursor, limit: u32) -> u32 {
        if let Block::Other { left } = self.block {
            let available = count(bytes.len() - cursor.at);
            let taken = left.min(limit).min(available);
            cursor.at += taken as usize;
            self.block = text_rest(left - taken);
            return taken;
        }
        let before = *self;
        let at = cursor.at;
        let byte = bytes[at];
        cursor.at += 1;
        self.block = match self.block {
            Block::Field => begin_field(byte),
            Block::Length { text } => {
                let of = Integer::Length { text, coded: byte & 0x80 != 0 };
                integer(of, u32::from(byte & 0x7f), 0x7f)
            }
            Block::Integer { of, value, shift } => {
                let Some(value) = add_digit(value, byte, shift) else {
                    self.frame = Frame::Opaque;
                    return 1;
                };
                if byte & 0x80 == 0 {
                    of.then(value)
                } else {
                    Block::Integer { of, value, shift: shift + 7 }
                }
            }
            Block::Name { left, seen, coded, same } => {
                let expected = if coded { NAME_CODED } else { NAME };
                let same = same && expected.get(usize::from(seen)) == Some(&byte);
                match left {
                    1 if same => Block::Length { text: Text::Authority },
                    1 => Block::Length { text: Text::Value },
                    _ => Block::Name { left: left - 1, seen: seen.saturating_add(1), coded, same },
                }
            }
            Block::Plain { left } => {
                if matches!(byte, b'%' | b'/') {
                    bytes[at] = b'-';
                }
                if left == 1 { Block::Field } else { Block::Plain { left: left - 1 } }
            }
            Block::Coded { left, mut walk } => {
                let ambiguous = walk.rewrite(bytes, at, cursor.last_coded);
                cursor.last_coded = Some(at);
                cursor.mark = (ambiguous && left > 1).then_some((at, before));
                if left == 1 { Block::Field } else { Block::Coded { left: left - 1, walk } }
            }
            Block::Other { .. } => self.block,
        };
        1
    }
}

/// The first byte of a field's representation.
fn begin_field(byte: u8) -> Block {
    let literal = |index: u8, max: u8| match index {
        0 => Block::Length { text: Text::Name },
        1 => Block::Length { text: Text::Authority },
        _ => integer(Integer::NameIndex, u32::from(index), u32::from(max)),
    };
    match byte {
        0x80.. => integer(Integer::Complete, u32::from(byte & 0x7f), 0x7f),
        0x40.. => literal(byte & 0x3f, 0x3f),
        0x20.. => integer(Integer::Complete, u32::from(byte & 0x1f), 0x1f),
        _ => literal(byte & 0x0f, 0x0f),
    }
}

/// An integer whose first byte's prefix holds `value`; all ones mean that it goes on.
fn integer(of: Integer, value: u32, max: u32) -> Block {
    if value == max { Block::Integer { of, value, shift: 0 } } else { of.then(value) }
}

impl Integer {
    fn then(self, value: u32) -> Block {
        match self {
            Self::Complete => Block::Field,
            Self::NameIndex => Block::Length { text: Text::Value },
            Self::Length { text: Text::Name, coded } => {
                let name = if coded { NAME_CODED } else { NAME };
                match value {
                    0 => Block::Length { text: Text::Value },
                    left => Block::Name { left, seen: 0, coded, same: left == count(name.len()) },
                }
            }
            Self::Length { text: _, coded: _ } if value == 0 => Block::Field,
            Self::Length { text: Text::Value, .. } => Block::Other { left: value },
            Self::Length { text: Text::Authority, coded: false } => Block::Plain { left: value },
            Self::Length { text: Text::Authority, coded: true } => {
                Block::Coded { left: value, walk: Walk::new() }
            }
        }
    }
}

/// Adds a continuation byte's seven bits; none when the integer is absurdly large.
fn add_digit(value: u32, byte: u8, shift: u8) -> Option<u32> {
    (shift <= 21).then(|| value + (u32::from(byte & 0x7f) << shift))
}

fn begin_headers(left: u32, pad: u32, priority: bool, last: bool) -> Frame {
    let before = if priority { 5 } else { 0 };
    match left.checked_sub(pad + before) {
        None => Frame::Opaque,
        Some(left) if priority => Frame::Priority { skip: 5, left, pad, last },
        Some(left) => Frame::Fragment { left, pad, last },
    }
}

fn skip(left: u32) -> Frame {
    if left == 0 { FRAME_START } else { Frame::Skip { left } }
}

fn text_rest(left: u32) -> Block {
    if left == 0 { Block::Field } else { Block::Other { left } }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
