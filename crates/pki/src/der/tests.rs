use super::*;

#[test]
fn lengths_of_every_form_come_back() {
    for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
        let content = vec![7; len];
        let (mut plain, mut nested) = (Vec::new(), Vec::new());
        put(&mut plain, OCTET_STRING, &content);
        put_nested(&mut nested, OCTET_STRING, |out| out.extend(&content));
        assert_eq!(plain, nested);
        let mut reader = Reader::new(&plain);
        assert_eq!(reader.value(OCTET_STRING).unwrap(), content);
        reader.finish().unwrap();
    }
}

#[test]
fn lengths_that_are_not_minimal_are_refused() {
    for input in [
        &[0x04, 0x80][..],
        &[0x04, 0x81, 0x01, 0x00],
        &[0x04, 0x82, 0x00, 0x80],
        &[0x04, 0x85, 0, 0, 0, 0, 1],
        &[0x04, 0xff],
    ] {
        assert_eq!(Reader::new(input).any().err(), Some(DerError::Length), "{input:02x?}");
    }
    assert_eq!(
        Reader::new(&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff]).any().err(),
        Some(DerError::Truncated)
    );
    assert_eq!(Reader::new(&[0x1f, 0x81, 0x00]).any().err(), Some(DerError::Tag));
    assert_eq!(Reader::new(&[0x04]).any().err(), Some(DerError::Truncated));
}

#[test]
fn numbers_have_one_form() {
    for (input, value) in [
        (&[2, 1, 0][..], Some(&[][..])),
        (&[2, 1, 0x7f], Some(&[0x7f])),
        (&[2, 2, 0, 0x80], Some(&[0x80])),
        (&[2, 2, 0, 0x7f], None),
        (&[2, 1, 0x80], None),
        (&[2, 0], None),
    ] {
        assert_eq!(Reader::new(input).unsigned().ok(), value, "{input:02x?}");
    }
    for (magnitude, encoded) in [
        (&[][..], &[2, 1, 0][..]),
        (&[0, 0], &[2, 1, 0]),
        (&[0, 1], &[2, 1, 1]),
        (&[0x80], &[2, 2, 0, 0x80]),
    ] {
        let mut out = Vec::new();
        put_unsigned(&mut out, magnitude);
        assert_eq!(out, encoded);
    }
}
