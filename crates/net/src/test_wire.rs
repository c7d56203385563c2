//! For tests: what a client puts on the wire, byte by byte.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a literal names its field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Naming {
    Index(u8),
    Plain(&'static str),
    Coded(&'static str),
}

/// A header field as an encoder may represent it (RFC 7541 section 6).
#[derive(Clone, Debug)]
pub(crate) enum Field {
    Indexed(u8),
    TableSize(u16),
    Literal { form: Form, naming: Naming, value: String, coded: bool },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Incremental,
    Without,
    Never,
}

impl Field {
    pub(crate) fn authority(form: Form, coded: bool, value: &str) -> Self {
        Self::Literal { form, naming: Naming::Index(1), value: value.into(), coded }
    }

    pub(crate) fn is_authority(&self) -> bool {
        let Self::Literal { naming, .. } = self else { return false };
        matches!(
            naming,
            Naming::Index(1) | Naming::Plain(":authority") | Naming::Coded(":authority")
        )
    }

    /// This field as the filter should leave it.
    pub(crate) fn filtered(&self) -> Self {
        let mut filtered = self.clone();
        if let (true, Self::Literal { value, .. }) = (self.is_authority(), &mut filtered) {
            *value = value.replace(['%', '/'], "-");
        }
        filtered
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Indexed(index) => integer(out, 0x80, 7, u32::from(*index)),
            Self::TableSize(size) => integer(out, 0x20, 5, u32::from(*size)),
            Self::Literal { form, naming, value, coded } => {
                let (first, bits) = match form {
                    Form::Incremental => (0x40, 6),
                    Form::Without => (0x00, 4),
                    Form::Never => (0x10, 4),
                };
                match naming {
                    Naming::Index(index) => integer(out, first, bits, u32::from(*index)),
                    Naming::Plain(name) => {
                        out.push(first);
                        text(out, name, false);
                    }
                    Naming::Coded(name) => {
                        out.push(first);
                        text(out, name, true);
                    }
                }
                text(out, value, *coded);
            }
        }
    }
}

pub(crate) fn block(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        field.encode(&mut out);
    }
    out
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The frames of a header block: HEADERS with optional padding and priority, and a CONTINUATION
/// for every further part.
pub(crate) fn headers(
    stream: u32,
    parts: &[&[u8]],
    padding: Option<u8>,
    priority: bool,
    end_stream: bool,
) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(padding);
    if priority {
        payload.extend_from_slice(&[0, 0, 0, 0, 16]);
    }
    payload.extend_from_slice(parts[0]);
    payload.extend(std::iter::repeat_n(0, padding.unwrap_or(0).into()));
    let last = |index: usize| if index + 1 == parts.len() { 0x4 } else { 0 };
    let flags = u8::from(end_stream)
        | if padding.is_some() { 0x8 } else { 0 }
        | if priority { 0x20 } else { 0 };
    let mut out = frame(1, flags | last(0), stream, &payload);
    for (index, part) in parts.iter().enumerate().skip(1) {
        out.extend(frame(9, last(index), stream, part));
    }
    out
}

fn integer(out: &mut Vec<u8>, first: u8, bits: u8, value: u32) {
    let max = (1_u32 << bits) - 1;
    if value < max {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(max).unwrap());
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str, coded: bool) {
    let bytes = if coded { huffman(text) } else { text.as_bytes().to_vec() };
    integer(out, if coded { 0x80 } else { 0 }, 7, u32::try_from(bytes.len()).unwrap());
    out.extend(bytes);
}

pub(crate) fn huffman(text: &str) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    for character in text.chars() {
        let (_, code, len) = *CODES.iter().find(|(it, _, _)| *it == character).unwrap();
        bits.extend((0..len).rev().map(|bit| code >> bit & 1 == 1));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push(true);
    }
    bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
}

/// The alphabet of the tests, of every length from 5 bits to 30: some of RFC 7541 appendix B.
pub(crate) const CODES: &[(char, u32, u8)] = &[
    ('0', 0x0, 5),
    ('1', 0x1, 5),
    ('2', 0x2, 5),
    ('a', 0x3, 5),
    ('c', 0x4, 5),
    ('e', 0x5, 5),
    ('i', 0x6, 5),
    ('o', 0x7, 5),
    ('s', 0x8, 5),
    ('t', 0x9, 5),
    (' ', 0x14, 6),
    ('%', 0x15, 6),
    ('-', 0x16, 6),
    ('.', 0x17, 6),
    ('/', 0x18, 6),
    ('3', 0x19, 6),
    ('F', 0x61, 7),
    ('_', 0x22, 6),
    ('d', 0x24, 6),
    ('g', 0x26, 6),
    ('h', 0x27, 6),
    ('l', 0x28, 6),
    ('m', 0x29, 6),
    ('n', 0x2a, 6),
    ('p', 0x2b, 6),
    ('r', 0x2c, 6),
    ('u', 0x2d, 6),
    (':', 0x5c, 7),
    ('k', 0x75, 7),
    ('x', 0x79, 7),
    ('y', 0x7a, 7),
    ('X', 0xfc, 8),
    ('!', 0x3f8, 10),
    ('+', 0x7fb, 11),
    ('#', 0xffa, 12),
    ('@', 0x1ffa, 13),
    ('^', 0x3ffc, 14),
    ('<', 0x7ffc, 15),
    ('\\', 0x7fff0, 19),
    ('\n', 0x3fff_fffc, 30),
];
