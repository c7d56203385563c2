//! Messages put together from small pieces of their own and large ones that
//! are shared.
//!
//! Every answer of SDS is a few headers, names and lengths around the PEM of
//! certificates and keys. The PEM exists once per identity and bundle; what is
//! written here refers to it, so that an answer costs its caller some hundred
//! bytes however many streams get it.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use steeple_pki::digest::Sha256;

/// A protobuf message that is being written.
#[derive(Default)]
pub(super) struct Message {
    parts: Vec<Part>,
    len: usize,
}

enum Part {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Message {
    /// A field of the types `string` or `bytes`; one that is empty is left out,
    /// as proto3 has it.
    pub(super) fn text(mut self, number: u32, value: &str) -> Self {
        if !value.is_empty() {
            self.header(number, value.len());
            self.own(value.as_bytes());
        }
        self
    }

    /// A field of type `bytes` in a `oneof`, which is written also when empty.
    pub(super) fn shared(mut self, number: u32, value: &Bytes) -> Self {
        self.header(number, value.len());
        self.len += value.len();
        self.parts.push(Part::Shared(value.clone()));
        self
    }

    /// A message in a field.
    pub(super) fn nested(mut self, number: u32, inner: Message) -> Self {
        self.header(number, inner.len);
        for part in inner.parts {
            match part {
                Part::Own(bytes) => self.own(&bytes),
                Part::Shared(bytes) => {
                    self.len += bytes.len();
                    self.parts.push(Part::Shared(bytes));
                }
            }
        }
        self
    }

    /// What a hash of the content says: 32 hexadecimal digits.
    pub(super) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        self.parts.iter().for_each(|part| digest.update(part.bytes()));
        digest.finish()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The message with gRPC's prefix before it, in the order of sending.
    pub(super) fn into_frames(self) -> Vec<Bytes> {
        let mut prefix = vec![0; 5];
        let length = u32::try_from(self.len).expect("an answer is far below 4 GiB");
        prefix[1..].copy_from_slice(&length.to_be_bytes());
        let mut framed = Message { parts: vec![Part::Own(prefix)], len: 0 };
        for part in self.parts {
            match part {
                Part::Own(bytes) => framed.own(&bytes),
                shared @ Part::Shared(_) => framed.parts.push(shared),
            }
        }
        framed
            .parts
            .into_iter()
            .map(|part| match part {
                Part::Own(bytes) => bytes.into(),
                Part::Shared(bytes) => bytes,
            })
            .collect()
    }

    fn header(&mut self, number: u32, length: usize) {
        let mut header = Vec::with_capacity(12);
        encode_key(number, WireType::LengthDelimited, &mut header);
        encode_varint(length as u64, &mut header);
        self.own(&header);
    }

    fn own(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Own(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Own(bytes.to_vec())),
        }
    }
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A `google.protobuf.Any`.
pub(super) fn any(type_url: &str, value: Message) -> Message {
    Message::default().text(1, type_url).nested(2, value)
}

/// An `envoy.config.core.v3.DataSource` with its data in it.
pub(super) fn inline(data: &Bytes) -> Message {
    Message::default().shared(2, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(message: Message) -> Vec<u8> {
        message.into_frames().concat()
    }

    #[test]
    fn large_pieces_are_shared_and_small_ones_run_together() {
        let pem = Bytes::from(vec![b'x'; 300]);
        let secret = Message::default().text(1, "name").nested(2, inline(&pem)).text(3, "end");
        let frames = secret.into_frames();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1].as_ptr(), pem.as_ptr());
        let length = u32::try_from(frames.concat().len() - 5).unwrap();
        assert_eq!(frames[0][..5], [&[0][..], &length.to_be_bytes()].concat());
    }

    #[test]
    fn an_empty_text_is_left_out_and_an_empty_choice_is_not() {
        assert_eq!(whole(Message::default().text(1, "")), [0; 5]);
        assert_eq!(whole(inline(&Bytes::new())), [0, 0, 0, 0, 2, 0x12, 0]);
        assert_eq!(
            whole(Message::default().nested(4, Message::default())),
            [0, 0, 0, 0, 2, 0x22, 0]
        );
    }

    #[test]
    fn fingerprints_tell_contents_apart() {
        let of = |text: &str| Message::default().text(1, text).fingerprint();
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").len(), 32);
    }
}
