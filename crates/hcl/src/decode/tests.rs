use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Block, Located, MAX_DEPTH, MAX_TEXT};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    port: Located<u16>,
    names: Located<Vec<String>>,
    on: Located<bool>,
    inner: Located<Inner>,
    data: Option<Block>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Inner {
    size: Located<i64>,
}

fn block(text: &str) -> Block {
    Block::parse(text).unwrap()
}

#[test]
fn tells_where_each_value_stands() {
    let decoded = block("port = 1\n\ninner {\n  size = 2\n}").decode::<Settings>().unwrap();
    assert_eq!((decoded.value.port.value, decoded.value.port.line()), (Some(1), Some(1)));
    let inner = decoded.value.inner;
    assert_eq!(inner.line(), Some(3));
    assert_eq!(inner.as_ref().and_then(|inner| inner.size.line()), Some(4));
    assert!(!decoded.value.on.is_present());
}

#[test]
fn reports_every_value_that_does_not_fit() {
    let text = "port = \"x\"\nnames = 1\non = \"true\"\ninner { size = [] }";
    let errors = block(text).decode::<Settings>().unwrap_err();
    let found: Vec<_> = errors
        .iter()
        .map(|error| (error.path(), error.position().map(|position| position.line)))
        .collect();
    assert_eq!(
        found,
        [
            ("root.port", Some(1)),
            ("root.names", Some(2)),
            ("root.on", Some(3)),
            ("root.inner.size", Some(4)),
        ]
    );
    let first = "strconv.ParseInt: parsing \"x\": invalid syntax";
    assert_eq!(errors.to_string().lines().next(), Some(first));
}

#[test]
fn a_number_out_of_the_types_range_is_an_error() {
    assert!(block("port = 65536").decode::<Settings>().is_err());
    assert!(block("port = -1").decode::<Settings>().is_err());
}

#[test]
fn a_captured_block_can_be_decoded_and_printed_later() {
    let decoded = block("data {\n size=5\n  nope = 1 }").decode::<Settings>().unwrap();
    let data = decoded.value.data.unwrap();
    assert_eq!(data.to_hcl(), "size = 5\n\nnope = 1");
    let inner = data.decode::<Inner>().unwrap();
    assert_eq!(inner.value.size.value, Some(5));
    let unknown = &inner.unknown[0];
    assert_eq!((unknown.section.as_str(), unknown.key.as_str()), ("root", "nope"));
    assert_eq!((unknown.position.line, unknown.position.column), (3, 3));
}

#[test]
fn a_captured_block_does_not_show_its_content() {
    let secret = block("password = \"hush\"");
    assert!(!format!("{secret:?}").contains("hush"));
}

#[test]
fn labels_are_found_in_every_spelling_and_in_order() {
    let text =
        "A \"one\" {}\n\"B\" { two {} three {} }\nA = { four = {} }\n\"C\" \"five\" x { y z {} }";
    let found: Vec<_> = block(text)
        .labelled()
        .into_iter()
        .map(|label| (label.kind + "/" + &label.name, label.position.line))
        .collect();
    let expected = [("A/one", 1), ("B/two", 2), ("B/three", 2), ("A/four", 3), ("C/five", 4)];
    assert_eq!(found, expected.map(|(name, line)| (name.to_owned(), line)));
}

#[test]
fn nesting_is_limited_and_costs_no_stack() {
    for (open, close) in [("a {", "}"), ("a = [", "]"), ("a = [[", "]]"), ("a = [{ b = ", "}]")] {
        let text = open.repeat(100_000) + &close.repeat(100_000);
        assert!(Block::parse(&text).is_err(), "{open}");
    }
    let json = "{\"a\":".repeat(100_000);
    assert!(Block::parse(&json).is_err());
    let deep = "a {".repeat(MAX_DEPTH) + &"}".repeat(MAX_DEPTH);
    assert!(!block(&deep).to_hcl().is_empty());
    assert!(Block::parse(&format!("a {{{deep}}}")).is_err());
}

#[test]
fn text_is_limited() {
    let text = " ".repeat(MAX_TEXT + 1);
    let error = Block::parse(&text).unwrap_err();
    assert_eq!(error.message(), "text is longer than 1048576 bytes");
}

#[test]
fn many_labels_cost_no_more_than_their_number() {
    type Map = BTreeMap<String, BTreeMap<String, Inner>>;
    let text: String = (0..20_000).map(|n| format!("k{n} \"l\" {{}}\n")).collect();
    assert_eq!(block(&text).decode::<Map>().unwrap().value.len(), 20_000);
}

#[test]
fn what_is_not_utf8_is_placed() {
    let error = crate::parse(b"a = 1\nb\xff = 2").unwrap_err();
    assert_eq!(error.to_string(), "At 2:2: illegal UTF-8 encoding");
}

#[test]
fn a_place_before_a_long_character_does_not_underflow() {
    assert!(Block::parse("{z\u{e123}").is_err());
    assert!(Block::parse("\u{e123}").is_err());
}

#[test]
fn a_block_is_read_from_hcl_only() {
    assert!(serde_json::from_str::<Block>("{}").is_err());
}
