//! What bounds a template, and that nothing in one can bring the program down.

use proptest::prelude::*;

use crate::{AgentPathTemplate, Value};

fn data() -> Value {
    Value::map([
        ("Name", Value::from("x")),
        ("List", Value::strings(["a", "b"])),
        ("Map", Value::map([("k", Value::from("v"))])),
    ])
}

fn run(template: &str) -> Result<String, String> {
    AgentPathTemplate::parse(template)
        .and_then(|template| template.execute(&data()))
        .map_err(|error| error.to_string())
}

#[test]
fn work_memory_output_and_depth_are_bounded() {
    let cases: &[(String, &str)] = &[
        ("{{ range 100000000 }}{{ end }}".into(), "too much work"),
        ("{{ range 1000 }}{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}{{ end }}".into(), "too much work"),
        ("{{ range 1000 }}0123456789012345678901234567890123456789012345678901234567890123456789{{ end }}".into(), "writes too much"),
        ("{{ repeat 1000000000 \"x\" }}".into(), "too long"),
        ("{{ $x := \"x\" }}{{ range 40 }}{{ $x = cat $x $x }}{{ end }}".into(), "too long"),
        ("{{ $x := \"x\" }}{{ range 40 }}{{ $x = printf \"%s%s\" $x $x }}{{ end }}".into(), "too long"),
        ("{{ $x := \"x\" }}{{ range 60000 }}{{ $x = printf \"%s\" (repeat 60000 \"y\") }}{{ end }}".into(), "too much work"),
        ("{{ $x := list }}{{ range 100000 }}{{ $x = list $x }}{{ end }}{{ $x }}".into(), "too deep"),
        ("{{ $x := list 1 }}{{ range 40 }}{{ $x = concat $x $x }}{{ end }}".into(), "too much work"),
        ("{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ $d }}".into(), "too deep"),
        ("{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ has $d (list $d) }}".into(), "too deep"),
        ("{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ merge $d $d }}".into(), "too deep"),
        ("{{ define \"t\" }}{{ template \"t\" . }}{{ end }}{{ template \"t\" . }}".into(), "maximum template depth"),
        ("{{ seq 1 100000000000 }}".into(), "too"),
        ("{{ indent 1000000000 \"a\" }}".into(), "too long"),
        ("{{ printf \"%1000000000d\" 1 }}".into(), "pads too far"),
        ("{{ printf \"%.1000000000f\" 1.0 }}".into(), "pads too far"),
        ("{{ regexMatch \"((a{100}){100}){100}\" \"a\" }}".into(), ""),
        ("{{ mustRegexMatch \"((a{100}){100}){100}\" \"a\" }}".into(), "too large"),
        ("{{ range 10000 }}{{ regexMatch (printf \"%d\" .) \"a\" }}{{ end }}".into(), "too much work"),
        ("{{ regexReplaceAll \"\" (repeat 60000 \"a\") (repeat 60000 \"b\") }}".into(), "too"),
        ("{{ replace \"a\" (repeat 60000 \"b\") (repeat 60000 \"a\") }}".into(), "too long"),
        (format!("{}1{}", "{{ (".to_owned() + &"(".repeat(5000), ")".repeat(5001) + " }}"), "max expression depth"),
        (format!("{}{}", "{{ if true }}".repeat(2500), "{{ end }}".repeat(2500)), "nested too deeply"),
        (format!("{{{{ if true }}}}{}{{{{ end }}}}", "{{ else if true }}".repeat(3000)), "nested too deeply"),
        ("x".repeat(70_000), "too long"),
    ];
    for (template, expected) in cases {
        let shown: String = template.chars().take(80).collect();
        match run(template) {
            Ok(output) => assert_eq!((*expected, output.len() < 64), ("", true), "{shown}"),
            Err(error) => {
                assert!(error.contains(expected) && !expected.is_empty(), "{shown}: {error}");
                assert!(error.len() < 2000, "{shown}");
            }
        }
    }
}

#[test]
fn a_container_of_itself_is_dropped_and_looked_at_without_end_in_neither() {
    let deep = "{{ $x := dict }}{{ range 20000 }}{{ $x = dict \"x\" $x }}{{ end }}{{ len $x }}";
    assert_eq!(run(deep).unwrap(), "1");
}

#[test]
fn what_a_template_changes_is_its_own() {
    let template = "{{ $_ := set .Map \"k\" \"changed\" }}{{ .Map.k }}";
    let template = AgentPathTemplate::parse(template).unwrap();
    let data = data();
    assert_eq!(template.execute(&data).unwrap(), "changed");
    let Value::Map(map) = &data else { unreachable!() };
    assert_eq!(map["Map"], Value::map([("k", Value::from("v"))]));
}

const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{{-",
    "-}}",
    " ",
    ".",
    ".Name",
    ".List",
    ".Map",
    "$",
    "$x",
    ":=",
    "=",
    "|",
    "(",
    ")",
    "\"a\"",
    "`b`",
    "'c'",
    "1",
    "-2",
    "3.5",
    "0x",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "template",
    "block",
    "break",
    "continue",
    "nil",
    "true",
    "upper",
    "list",
    "dict",
    "set",
    "index",
    "len",
    "printf",
    "\"%5.3v\"",
    "slice",
    "regexFind",
    "\"(a\"",
    "trunc",
    "é",
    "/*",
    "*/",
    "\n",
    ",",
    "substr",
    "wrap",
    "seq",
    "join",
    "\\",
    "urlParse",
    "abbrevboth",
    "and",
    "eq",
    "chunk",
    "b32dec",
    "snakecase",
    "camelcase",
    "\"fooBAR2x_é-É\"",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_a_template_or_an_error(text in "\\PC{0,60}") {
        let _ = run(&text);
        let _ = run(&format!("{{{{ {text} }}}}"));
    }

    #[test]
    fn any_mixture_of_what_templates_are_made_of_is_one_or_an_error(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24),
    ) {
        let _ = run(&pieces.concat());
        let _ = run(&format!("{{{{ {} }}}}", pieces.join(" ")));
    }

    #[test]
    fn functions_of_strings_take_any_string_and_number(
        text in "\\PC{0,12}", number in -20_i64..20, other in -5_i64..30,
    ) {
        let quoted = crate::print::quoted(&text);
        for call in [
            "abbrev N T", "abbrevboth N O T", "trunc N T", "substr N O T", "wrap N T",
            "wrapWith N \"é\" T", "initials T", "nospace T", "title T", "untitle T", "swapcase T",
            "snakecase T", "kebabcase T", "camelcase T", "quote T", "b64dec T", "b32dec T",
            "b32dec (b32enc T)", "base T", "dir T", "clean T", "ext T", "urlParse T",
            "urlJoin (urlParse T)", "regexFind T T", "regexSplit T T N", "regexQuoteMeta T",
            "splitList T T", "replace T T T", "html T", "js T", "urlquery T", "printf T N T",
            "indent O T", "repeat O T", "seq N O", "slice (list 1 2 3) N O",
            "chunk N (list 1 2 3)", "index (list 1 2) N", "adler32sum T", "toString T",
        ] {
            let call = call.replace('T', &quoted).replace('N', &number.to_string());
            let _ = run(&format!("{{{{ {} }}}}", call.replace('O', &other.to_string())));
        }
        let there_and_back = run(&format!("{{{{ b32dec (b32enc {quoted}) }}}}"));
        if crate::literal::unquote(&quoted).is_some() {
            prop_assert_eq!(there_and_back.unwrap(), text);
        }
    }
}
