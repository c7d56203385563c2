use super::*;

fn all(text: &str) -> Vec<Result<(&str, Vec<u8>), PemError>> {
    blocks(text).map(|block| block.map(|it| (it.label, it.contents))).collect()
}

#[test]
fn blocks_come_back() {
    for len in [0, 1, 47, 48, 49, 1000] {
        let contents: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let text = format!("text\n{}between\n{}", encode("A", &contents), encode("B C", b"x"));
        assert_eq!(all(&text), [Ok(("A", contents)), Ok(("B C", b"x".to_vec()))]);
    }
}

#[test]
fn headers_line_ends_and_long_lines_are_accepted() {
    let text = "-----BEGIN X-----\r\nProc-Type: 4\r\n\r\nAAAA\r\n  BBBB  \r\n-----END X-----\r\n";
    assert_eq!(all(text), [Ok(("X", vec![0, 0, 0, 4, 16, 65]))]);
    let long = format!("-----BEGIN X-----\n{}\n-----END X-----", "A".repeat(400));
    assert_eq!(all(&long), [Ok(("X", vec![0; 300]))]);
}

#[test]
fn broken_blocks_end_the_reading() {
    let good = encode("A", b"x");
    let after = |broken: &str| all(&format!("{good}{broken}")).pop().unwrap().unwrap_err();
    assert_eq!(after("-----BEGIN A-----\nAAAA\n"), PemError::Unterminated(4));
    assert_eq!(after("-----BEGIN A-----\n-----END B-----\n"), PemError::Unterminated(4));
    assert_eq!(after("-----BEGIN A-----\n*\n-----END A-----\n"), PemError::Base64(4));
    assert_eq!(all("no block at all").len(), 0);
    assert_eq!(all(&"-".repeat(MAX_PEM_LEN + 1)), [Err(PemError::TooLarge)]);
}
