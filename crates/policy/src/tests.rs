use super::*;

const DELETE: &str = "/spire.api.server.entry.v1.Entry/BatchDeleteEntry";

fn with_result(result: &str) -> String {
    format!("package spire\nresult = {result}\n")
}

const ALL: &str = r#"{"allow": false, "allow_if_admin": false, "allow_if_local": true,
    "allow_if_downstream": false, "allow_if_agent": input.caller == "spiffe://example.org/a"}"#;

fn ask(engine: &Engine, caller: &str, full_method: &str, req: Value) -> Result<Verdict, EvalError> {
    engine.evaluate(Input { caller, caller_file_path: "", full_method, req })
}

#[test]
fn a_policy_sees_caller_method_path_and_request() {
    let engine = Engine::new(
        r#"package spire
        result = {
            "allow": allow,
            "allow_if_admin": input.full_method == "/x.Y/Z",
            "allow_if_local": input.caller_file_path == "/usr/bin/admin",
            "allow_if_downstream": false,
            "allow_if_agent": startswith(input.caller, data.prefix),
        }
        default allow = false
        allow = true if input.req.entries[_].spiffe_id.path == "/ok"
        "#,
        Some(r#"{"prefix": "spiffe://example.org/"}"#),
    )
    .unwrap();
    let verdict = engine
        .evaluate(Input {
            caller: "spiffe://example.org/a",
            caller_file_path: "/usr/bin/admin",
            full_method: "/x.Y/Z",
            req: json!({"entries": [{"spiffe_id": {"path": "/no"}}, {"spiffe_id": {"path": "/ok"}}]}),
        })
        .unwrap();
    assert_eq!(
        verdict,
        Verdict {
            allow: true,
            allow_if_admin: true,
            allow_if_local: true,
            allow_if_downstream: false,
            allow_if_agent: true,
        }
    );
    let other = ask(&engine, "spiffe://other.org/a", "/x.Y/W", Value::Null).unwrap();
    assert_eq!(other, Verdict::default());
}

#[test]
fn one_evaluation_leaves_nothing_for_the_next() {
    let engine = Engine::new(&with_result(ALL), None).unwrap();
    for _ in 0..3 {
        let agent = ask(&engine, "spiffe://example.org/a", DELETE, json!({})).unwrap();
        let nobody = ask(&engine, "", DELETE, json!({})).unwrap();
        assert!(agent.allow_if_agent && !nobody.allow_if_agent);
    }
}

#[test]
fn a_result_without_one_of_the_five_fields_is_refused_at_start_in_the_words_of_spire() {
    let fields =
        ["allow", "allow_if_admin", "allow_if_local", "allow_if_downstream", "allow_if_agent"];
    for missing in fields {
        let rest: Vec<String> = fields
            .iter()
            .filter(|name| **name != missing)
            .map(|name| format!("\"{name}\": true"))
            .collect();
        let error = Engine::new(&with_result(&format!("{{{}}}", rest.join(","))), None);
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "authpolicy engine failed to validate on sample test inputs: policy is \
                 misconfigured: policy: result did not contain \"{missing}\" bool value"
            )
        );
    }
}

#[test]
fn a_result_that_is_undefined_or_no_object_is_refused_at_start() {
    let failure = |module: &str| match Engine::new(module, None).unwrap_err() {
        LoadError::Samples(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(failure("package spire\nx = 1\n"), EvalError::Undefined);
    assert_eq!(failure("package other\nresult = 1\n"), EvalError::Undefined);
    let only_for = format!("package spire\nresult = {ALL} if input.full_method == \"{DELETE}\"\n");
    assert_eq!(failure(&only_for), EvalError::Undefined);
    assert_eq!(failure(&with_result("7")), EvalError::NoObject);
    assert_eq!(failure(&with_result("[true]")), EvalError::NoObject);
}

#[test]
fn a_module_that_is_no_rego_and_data_that_is_no_object_are_refused() {
    for bad in ["", "package", "package spire\nresult = {", "package spire\nallow { true }"] {
        assert!(matches!(Engine::new(bad, None), Err(LoadError::Module(_))), "{bad}");
    }
    for bad in ["", "[]", "7", "{", "null"] {
        let error = Engine::new(&with_result(ALL), Some(bad)).unwrap_err().to_string();
        assert!(error.starts_with("error decoding JSON databindings: "), "{bad}: {error}");
    }
    // Go's decoder stops after the first value.
    Engine::new(&with_result(ALL), Some("{} trailing")).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Engine::load(Path::new("/nowhere/policy.rego"), None).unwrap_err();
    assert_eq!(error.to_string(), "open /nowhere/policy.rego: no such file or directory");
}

#[test]
fn a_policy_that_loops_is_stopped() {
    let loops = format!(
        "package spire\nresult = {ALL} if count(hay) > 0\nxs = numbers.range(1, 400)\n\
         hay = {{x | some a in xs; some b in xs; some c in xs; x := a * b * c}}\n"
    );
    let begun = std::time::Instant::now();
    let error = Engine::new(&loops, None).unwrap_err();
    assert!(begun.elapsed() < 20 * BUDGET, "{:?}", begun.elapsed());
    assert!(matches!(error, LoadError::Samples(EvalError::Budget)), "{error}");
}

#[test]
fn two_values_for_one_rule_are_an_error_and_no_verdict() {
    let module =
        format!("package spire\nresult = {ALL}\nx = 1\nx = 2 if input.caller == \"two\"\n")
            + "result = {\"allow\": x == 1} if input.caller == \"two\"\n";
    let engine = Engine::new(&module, None).unwrap();
    assert_eq!(ask(&engine, "two", DELETE, json!({})), Err(EvalError::Conflict));
}

#[test]
fn builtins_that_reach_out_do_not_exist() {
    for call in [r#"http.send({"method": "get", "url": "http://127.0.0.1/"})"#, "opa.runtime()"] {
        let module = format!("package spire\nresult = {ALL} if {call}\n");
        assert!(Engine::new(&module, None).is_err(), "{call}");
    }
}
