//! The same templates as Go's `text/template` and sprig were given, with the same data, and the
//! answers that they gave (`testdata/golden.json`, which `interop/templates` writes).

use serde::Deserialize;

use crate::{AgentPathTemplate, TemplateError, Value};

#[derive(Deserialize)]
struct Answer {
    template: String,
    #[serde(default)]
    output: String,
    #[serde(default)]
    parse_error: String,
    #[serde(default)]
    execute_error: String,
}

fn data() -> Value {
    let any = Value::map([
        ("text", Value::from("hello")),
        ("nothing", Value::Nil),
        ("map", Value::map([("key", Value::from("value"))])),
    ]);
    let subject = Value::shown_record(
        "main.name",
        "CN=node 1.example.org",
        [
            ("CommonName", Value::from("node 1.example.org")),
            ("Organization", Value::strings(["Org"])),
        ],
    );
    Value::record(
        "main.agentPathTemplateData",
        [
            ("PluginName", Value::from("x509pop")),
            ("Fingerprint", Value::from("da39a3ee5e6b4b0d3255bfef95601890afd80709")),
            ("Count", Value::Int(7)),
            ("Serial", Value::Uint(42)),
            ("Ratio", Value::Float(2.5)),
            ("Yes", Value::from(true)),
            ("No", Value::from(false)),
            ("Empty", Value::from("")),
            ("Nothing", Value::Nil),
            ("Tags", Value::string_map([("Name", "Web Server 1"), ("Env", "prod")])),
            ("Any", any),
            ("Names", Value::strings(["a", "b", "c"])),
            (
                "List",
                Value::list([Value::Int(1), Value::from("two"), Value::Nil, Value::from(true)]),
            ),
            ("Subject", subject),
            (
                "Inner",
                Value::record(
                    "main.inner",
                    [("Name", Value::from("in")), ("Count", Value::Int(3))],
                ),
            ),
        ],
    )
}

/// Where only the words of an error differ from Go's, the templates that have it.
const OTHER_WORDS: &[&str] = &[
    // Our depth is less.
    "{{ define \"t\" }}x{{ template \"t\" . }}{{ end }}{{ template \"t\" . }}",
    "{{ call .PluginName }}",
    "{{ upper .Nothing }}",
];

/// Where we refuse what Go accepts, or the other way, and why.
const DIFFERS: &[(&str, &str)] = &[
    ("{{ 3i }}", "no path has use for a complex number"),
    ("{{ 1+2i }}", "no path has use for a complex number"),
];

#[test]
fn templates_give_what_go_gives_in_output_and_error() {
    let answers: Vec<Answer> =
        serde_json::from_str(include_str!("../testdata/golden.json")).unwrap();
    assert!(answers.len() > 300, "only {} templates", answers.len());
    let data = data();
    let mut wrong = Vec::new();
    for answer in &answers {
        let text = answer.template.as_str();
        if DIFFERS.iter().any(|(template, _)| *template == text) {
            continue;
        }
        let ours = AgentPathTemplate::parse(text).and_then(|template| template.execute(&data));
        let (kind, ours) = match &ours {
            Ok(output) => ("", output.clone()),
            Err(TemplateError::Parse(what)) => ("parse", what.clone()),
            Err(error) => ("execute", error.to_string()),
        };
        let (go_kind, go) = match answer {
            answer if !answer.parse_error.is_empty() => ("parse", &answer.parse_error),
            answer if !answer.execute_error.is_empty() => ("execute", &answer.execute_error),
            answer => ("", &answer.output),
        };
        let same_words = ours == *go || (!go_kind.is_empty() && OTHER_WORDS.contains(&text));
        if kind != go_kind || !same_words {
            wrong.push(format!("{text}\n  go   {go_kind}: {go}\n  ours {kind}: {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
}

#[test]
fn every_function_that_spire_allows_is_there_and_no_other_of_sprigs() {
    let names: Vec<String> =
        serde_json::from_str(include_str!("../testdata/functions.json")).unwrap();
    assert_eq!(names.len(), 118);
    for name in &names {
        let error = AgentPathTemplate::parse(&format!("{{{{ {name} }}}}")).err();
        assert_eq!(error, None, "{name}");
    }
    for name in ["env", "expandenv", "now", "genCA", "getHostByName", "randAlpha", "add"] {
        let error = AgentPathTemplate::parse(&format!("{{{{ {name} }}}}")).unwrap_err();
        let expected = format!("template: agent-path:1: function \"{name}\" not defined");
        assert_eq!(error.to_string(), expected);
    }
}
