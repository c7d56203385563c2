//! Symbol boundaries in HPACK's Huffman code (RFC 7541 appendix B).
//!
//! The code is canonical: codes of one length are consecutive and follow those of the lengths
//! below, so that the number of codes of each length says where every symbol ends.

/// The three symbols that matter here, each of six bits.
const PERCENT: u32 = 0x15;
const SLASH: u32 = 0x18;
const DASH: u8 = 0x16;
const BITS: u8 = 6;

const MAX_BITS: usize = 30;

/// How many codes there are of each length, from 0 bits to 30.
const COUNTS: [u32; MAX_BITS + 1] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];

/// The first code of each length.
const FIRST: [u32; MAX_BITS + 1] = first_codes();

const fn first_codes() -> [u32; MAX_BITS + 1] {
    let mut first = [0; MAX_BITS + 1];
    let mut bits = 1;
    while bits <= MAX_BITS {
        first[bits] = (first[bits - 1] + COUNTS[bits - 1]) << 1;
        bits += 1;
    }
    first
}

/// A place in a coded string: the bits read of the current symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    code: u32,
    bits: u8,
}

impl Walk {
    pub(super) const fn new() -> Self {
        Self { code: 0, bits: 0 }
    }

    /// Walks through `bytes[at]`, replacing what ends in it. `before` is where the string's byte
    /// before this one lies, if it is still ours to alter.
    ///
    /// Answers whether this byte ends in what may turn out to be a symbol to replace, in bits that
    /// the replacement would change.
    pub(super) fn rewrite(&mut self, bytes: &mut [u8], at: usize, before: Option<usize>) -> bool {
        for bit in 0..8_u8 {
            self.code = self.code << 1 | u32::from(bytes[at] >> (7 - bit) & 1);
            self.bits += 1;
            let bits = usize::from(self.bits);
            if self.code.wrapping_sub(FIRST[bits]) < COUNTS[bits] {
                if self.bits == BITS && matches!(self.code, PERCENT | SLASH) {
                    replace(bytes, at, bit, before);
                }
                *self = Self::new();
            } else if bits == MAX_BITS {
                // Not a code at all: h2 will say so.
                *self = Self::new();
            }
        }
        self.is_ambiguous()
    }

    fn is_ambiguous(self) -> bool {
        // The first two bits of all three symbols are the same.
        matches!(self.bits, 3..BITS)
            && [PERCENT, SLASH].iter().any(|symbol| symbol >> (BITS - self.bits) == self.code)
    }
}

/// Writes a dash over the six bits that end with bit `last` (0 is the highest) of `bytes[at]`.
fn replace(bytes: &mut [u8], at: usize, last: u8, before: Option<usize>) {
    let here = (last + 1).min(BITS);
    let there = BITS - here;
    if there > 2 && before.is_none() {
        return;
    }
    if let (1.., Some(before)) = (there, before) {
        let mask = (1 << there) - 1;
        bytes[before] = bytes[before] & !mask | DASH >> here;
    }
    let shift = 7 - last;
    let mask = ((1 << here) - 1) << shift;
    bytes[at] = bytes[at] & !mask | (DASH << shift) & mask;
}
