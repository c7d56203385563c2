//! Held against the Go library: `tests/golden` has what
//! `interop/golden/hcl` made of every sample with hashicorp/hcl 1.0.1-vault-7.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::{
    Block, UnknownKey,
    ast::{Body, Value},
    block::Captured,
    token::{Kind, Position},
};

/// The Go generator's `Sample`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Sample {
    text: String,
    int: i64,
    float: f64,
    bool: bool,
    may_text: Option<String>,
    may_int: Option<i64>,
    may_bool: Option<bool>,
    texts: Option<Vec<String>>,
    ints: Option<Vec<i64>>,
    sub: Sub,
    may_sub: Option<Sub>,
    subs: Option<Vec<Sub>>,
    map: Option<BTreeMap<String, Sub>>,
    maps: Option<BTreeMap<String, BTreeMap<String, Sub>>>,
    words: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing)]
    node: Option<Block>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Sub {
    text: String,
    int: i64,
    texts: Option<Vec<String>>,
    inner: Option<Box<Sub>>,
}

fn samples() -> Vec<PathBuf> {
    // Another folder with goldens can be looked at by hand.
    let folder = std::env::var_os("STEEPLE_HCL_SAMPLES").map(PathBuf::from);
    let folder = folder
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")));
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut samples: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|kind| kind == "hcl" || kind == "json"))
        .collect();
    samples.sort();
    assert!(samples.len() > 100, "the samples are missing");
    samples
}

/// Ours and the library's view of one sample, in the same form.
fn views(path: &PathBuf) -> (Json, Json) {
    let text = fs::read(path).unwrap();
    let is_json = text.trim_ascii_start().starts_with(b"{");
    let golden = fs::read_to_string(format!("{}.golden", path.display())).unwrap();
    let golden: Json = serde_json::from_str(&golden).unwrap();
    (ours(&text, is_json), comparable(golden, is_json))
}

/// Blurs what is meant to differ: where the library panics we return an error,
/// and where it forgot the place we know it.
fn comparable(mut golden: Json, is_json: bool) -> Json {
    for name in ["parse_error", "decode_error"] {
        if let Some(error) = golden.get(name).and_then(Json::as_str) {
            let error = match error {
                error if error.starts_with("panic") => "not a valid string",
                error if is_json => error.rsplit_once("At -: ").map_or(error, |(_, error)| error),
                error => error,
            };
            golden[name] = json!(error);
        }
    }
    // JSON does not tell 1 from 1.0.
    if let Some(float) = golden["decoded"]["float"].as_f64() {
        golden["decoded"]["float"] = json!(float);
    } else if let Some(golden) = golden.as_object_mut() {
        golden.remove("decoded");
    }
    golden
}

/// The parts in which two views differ.
fn difference(ours: &Json, golden: &Json) -> Option<String> {
    let parts = ["parse_error", "tree", "printed", "decode_error", "decoded", "node", "unused"];
    let differing = parts.into_iter().filter(|part| ours.get(part) != golden.get(part));
    let shown: Vec<_> = differing
        .map(|part| format!("  {part}\n    ours   {}\n    golden {}", ours[part], golden[part]))
        .collect();
    (!shown.is_empty()).then(|| shown.join("\n"))
}

fn ours(text: &[u8], is_json: bool) -> Json {
    let block = match crate::parse(text) {
        Ok(block) => block,
        Err(error) => return json!({ "parse_error": error.to_string() }),
    };
    let Captured::Body(body) = &block.node else { panic!("a file is a body") };
    let mut tree = Vec::new();
    dump_body(&mut tree, "", body);
    let mut out = json!({});
    if !tree.is_empty() {
        out["tree"] = json!(tree);
    }
    if !block.to_hcl().is_empty() {
        out["printed"] = json!(block.to_hcl());
    }
    match block.decode::<Sample>() {
        Ok(decoded) => {
            out["decoded"] = serde_json::to_value(&decoded.value).unwrap();
            if let Some(node) = &decoded.value.node {
                out["node"] = json!(node.to_hcl());
            }
            let mut unused: Vec<_> =
                decoded.unknown.iter().map(|key| show_unknown(key, is_json)).collect();
            unused.sort();
            if !unused.is_empty() {
                out["unused"] = json!(unused);
            }
        }
        Err(errors) => {
            let error = errors.iter().next().unwrap();
            let plain = error.message().contains("not a valid string");
            let text = match plain {
                true => "not a valid string".to_owned(),
                false if is_json => error.message().to_owned(),
                false => error.to_string(),
            };
            out["decode_error"] = json!(text);
        }
    }
    out
}

fn show_unknown(key: &UnknownKey, is_json: bool) -> String {
    let place = if is_json { Position::default() } else { key.position };
    format!("{} {} {place}", key.section, key.key)
}

fn dump_body(out: &mut Vec<String>, indent: &str, body: &Body) {
    for item in &body.items {
        let keys: Vec<_> = item
            .keys
            .iter()
            .map(|key| format!("{}@{}", key.token.text, place(key.token.at, key.token.json)))
            .collect();
        out.push(format!(
            "{indent}item {} assigned={} lead={} line={}",
            keys.join(" "),
            item.assigned,
            json!(item.lead_comment),
            json!(item.line_comment)
        ));
        dump(out, &format!("{indent}  "), &item.value);
    }
}

fn dump(out: &mut Vec<String>, indent: &str, value: &Value) {
    let inner = format!("{indent}  ");
    match value {
        Value::Object(object) => {
            out.push(format!("{indent}object@{}", place(object.at, object.json)));
            dump_body(out, &inner, &object.body);
        }
        Value::List(list) => {
            out.push(format!("{indent}list@{}", place(list.at, list.json)));
            list.values.iter().for_each(|value| dump(out, &inner, value));
        }
        Value::Literal(literal) => {
            let token = &literal.token;
            assert_ne!(token.kind, Kind::Null);
            out.push(format!(
                "{indent}{}@{} {} lead={} line={}",
                token.kind,
                place(token.at, token.json),
                json!(token.text),
                json!(literal.lead_comment),
                json!(literal.line_comment)
            ));
        }
    }
}

fn place(at: Position, is_json: bool) -> Position {
    if is_json { Position::default() } else { at }
}

#[test]
fn reads_prints_and_decodes_as_the_go_library() {
    let mut differing = Vec::new();
    for path in samples() {
        let (ours, golden) = views(&path);
        if let Some(difference) = difference(&ours, &golden) {
            differing.push(format!("{}\n{difference}", path.display()));
        }
    }
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}
