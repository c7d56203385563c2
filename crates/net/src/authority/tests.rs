use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::*;
use crate::test_wire::{CODES, Field, Form, Naming, PREFACE, block, frame, headers, huffman};

/// Yields what it was given, chunk by chunk, never two at a time.
struct Chunks(VecDeque<Vec<u8>>);

impl AsyncRead for Chunks {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut chunk) = self.0.pop_front() {
            let rest = chunk.split_off(chunk.len().min(buf.remaining()));
            buf.put_slice(&chunk);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads `bytes`, arriving in chunks of the given sizes in turn, through the filter.
fn filter(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut rest = bytes;
    let mut chunks = VecDeque::new();
    for size in sizes.iter().copied().chain([usize::MAX]).take(10_000) {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        if !chunk.is_empty() {
            chunks.push_back(chunk.to_vec());
        }
        rest = after;
    }
    let mut stream = Filtered::new(Chunks(chunks));
    let mut out = Vec::new();
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(stream.read_to_end(&mut out))
        .unwrap();
    out
}

fn one_by_one(bytes: &[u8]) -> Vec<u8> {
    filter(bytes, &vec![1; bytes.len()])
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out.extend(frames.iter().flatten());
    out
}

/// A request with `authority` in the midst of other fields.
fn request(authority: &Field) -> Vec<Field> {
    let path =
        "/SpiffeWorkloadAPI/FetchX509SVID".replace(|it| !CODES.iter().any(|c| c.0 == it), "a");
    vec![
        Field::Indexed(3),
        Field::TableSize(4096),
        authority.clone(),
        Field::Literal {
            form: Form::Incremental,
            naming: Naming::Index(4),
            value: path,
            coded: true,
        },
        Field::Literal {
            form: Form::Without,
            naming: Naming::Plain("te"),
            value: "trailers/%".into(),
            coded: false,
        },
    ]
}

const SOCKET: &str = "tmp%2Fspire-agent%2Fpublic%2Fapi.sock";

fn authority(value: &str, form: Form, naming: Naming, coded: bool) -> Field {
    let value = value.chars().filter(|it| CODES.iter().any(|code| code.0 == *it)).collect();
    Field::Literal { form, naming, value, coded }
}

#[test]
fn the_name_in_huffman_code_is_what_the_code_says() {
    assert_eq!(huffman(":authority"), NAME_CODED);
}

#[test]
fn every_form_of_a_literal_authority_is_rewritten_and_nothing_else() {
    for form in [Form::Incremental, Form::Without, Form::Never] {
        for naming in [Naming::Index(1), Naming::Plain(":authority"), Naming::Coded(":authority")] {
            for coded in [false, true] {
                let fields = request(&authority(SOCKET, form, naming, coded));
                let expected: Vec<_> = fields.iter().map(Field::filtered).collect();
                let sent = connection(&[headers(1, &[&block(&fields)], None, false, true)]);
                let expected = connection(&[headers(1, &[&block(&expected)], None, false, true)]);
                assert_ne!(sent, expected);
                assert_eq!(filter(&sent, &[]), expected, "{form:?} {naming:?} {coded}");
                assert_eq!(one_by_one(&sent), expected, "{form:?} {naming:?} {coded}");
            }
        }
    }
}

#[test]
fn a_symbol_split_between_frames_is_rewritten_at_every_place() {
    for shift in 0..8 {
        let value = format!("{}/%/%", "0".repeat(shift));
        let field = Field::authority(Form::Incremental, true, &value);
        let (sent, expected) = (block(std::slice::from_ref(&field)), block(&[field.filtered()]));
        for at in 0..=sent.len() {
            let frames = |block: &[u8]| {
                let parts = [&block[..at], &[], &[], &block[at..]];
                connection(&[headers(1, &parts, Some(255), true, false)])
            };
            assert_eq!(filter(&frames(&sent), &[]), frames(&expected), "{value} at {at}");
            assert_eq!(one_by_one(&frames(&sent)), frames(&expected), "{value} at {at}");
        }
    }
}

#[test]
fn other_fields_keep_their_slashes() {
    let fields = [
        Field::Literal {
            form: Form::Incremental,
            naming: Naming::Index(4),
            value: "/a/%".into(),
            coded: true,
        },
        Field::Literal {
            form: Form::Incremental,
            naming: Naming::Plain(":authoritx"),
            value: "/a/%".into(),
            coded: false,
        },
        Field::Literal {
            form: Form::Never,
            naming: Naming::Index(200),
            value: "/".repeat(300),
            coded: false,
        },
    ];
    let sent = connection(&[
        headers(1, &[&block(&fields)], None, false, false),
        frame(0, 1, 1, b"A/tmp%2F:authority"),
    ]);
    assert_eq!(filter(&sent, &[]), sent);
}

#[test]
fn what_follows_a_malformed_frame_passes_unaltered() {
    let rewritten = |frames: &[Vec<u8>]| {
        let sent = connection(frames);
        filter(&sent, &[]) != sent
    };
    let request = || {
        let field = Field::authority(Form::Incremental, false, SOCKET);
        headers(1, &[&block(&[field])], None, false, true)
    };
    assert!(rewritten(&[request()]));
    assert!(rewritten(&[frame(99, 0xff, 7, b"unknown"), request()]));
    for (what, malformed) in [
        ("a frame above the limit", frame(0, 0, 1, &[0; 16_385])),
        ("a continuation of nothing", frame(9, 4, 1, &[])),
        ("more padding than payload", frame(1, 0x8 | 0x4, 1, &[9, 0, 0])),
        ("padding without a length", frame(1, 0x8 | 0x4, 1, &[])),
        ("no room for a priority", frame(1, 0x20 | 0x4, 1, &[0; 4])),
        ("a block that ends within a field", frame(1, 0x4, 1, &[0x41, 9])),
        ("an integer without end", frame(1, 0x4, 1, &[0xff; 20])),
        ("another frame within a block", [frame(1, 0, 1, &[]), frame(0, 0, 1, &[])].concat()),
        ("a block continued elsewhere", [frame(1, 0, 1, &[]), frame(9, 4, 3, &[])].concat()),
    ] {
        assert!(!rewritten(&[malformed, request()]), "{what}");
    }
    let http1 = b"GET /tmp%2F HTTP/1.1\r\nHost: /%\r\n\r\n";
    assert_eq!(filter(http1, &[]), http1);
}

#[test]
fn a_symbol_that_is_never_finished_holds_back_little_and_not_for_ever() {
    let mut filter = AuthorityFilter::new();
    // A string of seven bits' worth of zeros, then the beginning of a slash, and no end.
    let mut bytes = connection(&[frame(1, 0, 1, &[0x41, 0x85, 0b0000_0011])]);
    assert_eq!(filter.rewrite(&mut bytes.clone()), bytes.len() - 1);
    for empty in 0..100 {
        bytes.extend(frame(9, 0, 1, &[]));
        let mut fresh = AuthorityFilter::new();
        let held = bytes.len() - fresh.rewrite(&mut bytes.clone());
        assert!(held <= 512, "{held} bytes held after {empty} empty frames");
    }
}

#[test]
fn the_end_of_the_stream_releases_what_is_held() {
    let sent = connection(&[frame(1, 0, 1, &[0x41, 0x85, 0b0000_0011])]);
    assert_eq!(one_by_one(&sent), sent);
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let alphabet: Vec<char> =
        CODES.iter().map(|code| code.0).chain(['%'; 9]).chain(['/'; 9]).collect();
    let value = proptest::collection::vec(proptest::sample::select(alphabet), 0..40)
        .prop_map(|characters| characters.into_iter().collect::<String>());
    let form = prop_oneof![Just(Form::Incremental), Just(Form::Without), Just(Form::Never)];
    let naming = prop_oneof![
        4 => Just(Naming::Index(1)),
        1 => (2..255_u8).prop_map(Naming::Index),
        1 => Just(Naming::Plain(":authority")),
        1 => Just(Naming::Coded(":authority")),
        1 => Just(Naming::Plain("other/name")),
    ];
    let literal = (form, naming, value, any::<bool>())
        .prop_map(|(form, naming, value, coded)| Field::Literal { form, naming, value, coded });
    let field = prop_oneof![
        any::<u8>().prop_map(Field::Indexed),
        any::<u16>().prop_map(Field::TableSize),
        literal.clone(),
        literal,
    ];
    proptest::collection::vec(field, 0..8)
}

/// Frames of one request: the block cut at some places, padded, with a priority, then data.
fn frames(
    fields: &[Field],
    cuts: &[prop::sample::Index],
    padding: Option<u8>,
    priority: bool,
) -> Vec<u8> {
    let block = block(fields);
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(block.len() + 1)).collect();
    places.sort_unstable();
    places.push(block.len());
    let mut from = 0;
    let mut parts = Vec::new();
    for to in places {
        parts.push(&block[from..to]);
        from = to;
    }
    let mut out = headers(1, &parts, padding, priority, false);
    out.extend(frame(0, 0, 1, b"%2F/"));
    out
}

proptest! {
    #[test]
    fn any_request_in_any_frames_and_chunks_is_rewritten_exactly(
        requests in proptest::collection::vec(
            (
                fields(),
                proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
                proptest::option::of(any::<u8>()),
                any::<bool>(),
            ),
            1..4,
        ),
        sizes in proptest::collection::vec(1..40_usize, 0..40),
    ) {
        let connection = |filtered: bool| {
            let requests: Vec<_> = requests.iter().map(|(fields, cuts, padding, priority)| {
                let fields: Vec<_> = match filtered {
                    true => fields.iter().map(Field::filtered).collect(),
                    false => fields.clone(),
                };
                frames(&fields, cuts, *padding, *priority)
            }).collect();
            connection(&requests)
        };
        prop_assert_eq!(filter(&connection(false), &sizes), connection(true));
    }

    #[test]
    fn any_bytes_keep_their_number_and_do_not_depend_on_chunks(
        tail in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(vec![0, 1, 4, 9, 0x41, 0x85, 0x25, 0x2f])],
            0..200,
        ),
        sizes in proptest::collection::vec(1..9_usize, 0..60),
    ) {
        let mut sent = PREFACE.to_vec();
        sent.extend(tail);
        let whole = filter(&sent, &[]);
        prop_assert_eq!(whole.len(), sent.len());
        prop_assert_eq!(filter(&sent, &sizes), whole);
    }
}
