use super::*;

/// Feeds a header as it is asked for, and answers with what is left over.
fn parse(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), String> {
    let mut taken = 0;
    loop {
        match next(&bytes[..taken]).map_err(|error| error.to_string())? {
            Step::Done(client) => return Ok((client, bytes.len() - taken)),
            Step::More(count) => {
                assert!(count > 0);
                taken += count;
                if taken > bytes.len() {
                    return Err("cut off".to_owned());
                }
            }
        }
    }
}

fn client(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn v2_of(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = V2.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
    header.extend(addresses);
    header
}

#[test]
fn a_line_of_v1_names_the_client_and_leaves_the_handshake() {
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n\x16\x03\x01";
    assert_eq!(parse(line), Ok((client("192.0.2.7:56324"), 3)));
    let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n";
    assert_eq!(parse(line), Ok((client("[2001:db8::7]:56324"), 0)));
    assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok((None, 0)));
    assert_eq!(parse(b"PROXY UNKNOWN ffff::1 whatever 7\r\n"), Ok((None, 0)));
}

#[test]
fn a_bad_line_of_v1_is_refused_and_never_longer_than_it_may_be() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 x\r\n",
        "PROXY TCP4 2001:db8::7 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        "POST / HTTP/1.1\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line}");
    }
    let endless = format!("PROXY TCP4 {}", "1".repeat(200));
    assert_eq!(
        parse(endless.as_bytes()),
        Err("malformed PROXY protocol header: the line is too long".to_owned())
    );
}

#[test]
fn a_v2_header_names_the_client_whatever_follows_the_addresses() {
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
    assert_eq!(parse(&v2_of(0x21, 0x11, &v4)), Ok((client("192.0.2.7:56324"), 0)));
    let with_more = [&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    let mut header = v2_of(0x21, 0x11, &with_more);
    header.extend(b"\x16\x03");
    assert_eq!(parse(&header), Ok((client("192.0.2.7:56324"), 2)));
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    v6[32..34].copy_from_slice(&[0xdc, 0x04]);
    assert_eq!(parse(&v2_of(0x21, 0x21, &v6)), Ok((client("[2001:db8::7]:56324"), 0)));
    assert_eq!(parse(&v2_of(0x21, 0x31, &[0; 216])), Ok((None, 0)));
}

#[test]
fn the_proxys_own_connection_names_nobody() {
    for (family, addresses) in [(0x00, 0), (0x11, 12), (0x11, 0), (0x12, 3)] {
        assert_eq!(parse(&v2_of(0x20, family, &vec![0; addresses])), Ok((None, 0)), "{family}");
    }
}

#[test]
fn a_bad_v2_header_is_refused() {
    for (command, family, addresses) in
        [(0x31, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x13, 12), (0x21, 0x00, 0), (0x21, 0x11, 11)]
    {
        let parsed = parse(&v2_of(command, family, &vec![0; addresses]));
        assert!(parsed.is_err(), "{command:x} {family:x} {addresses}");
    }
    assert!(parse(&v2_of(0x21, 0x12, &[0; 12])).is_err(), "a datagram");
    assert!(parse(&v2_of(0x21, 0x11, &vec![0; MAX_V2 + 1])).is_err());
    assert!(parse(b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c").is_err());
}

#[test]
fn ranges_hold_the_addresses_with_their_leading_bits() {
    let ranges: Ranges = Ranges::new([
        ("10.0.0.0".parse().unwrap(), 8),
        ("192.0.2.128".parse().unwrap(), 25),
        ("2001:db8::".parse().unwrap(), 32),
    ]);
    for inside in ["10.255.0.1", "192.0.2.200", "2001:db8:ffff::1", "::ffff:10.0.0.1"] {
        assert!(ranges.contain(inside.parse().unwrap()), "{inside}");
    }
    for outside in ["11.0.0.1", "192.0.2.1", "2001:db9::1", "::1"] {
        assert!(!ranges.contain(outside.parse().unwrap()), "{outside}");
    }
    assert!(Ranges::new([("0.0.0.0".parse().unwrap(), 0)]).contain("8.8.8.8".parse().unwrap()));
    assert!(!Ranges::default().contain("10.0.0.1".parse().unwrap()));
}
