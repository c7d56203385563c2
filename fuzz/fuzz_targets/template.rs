//! A template is parsed or refused, and executed with bounded work, whatever it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_template::{AgentPathTemplate, Value};

fuzz_target!(|input: (String, String)| {
    let (template, name) = input;
    let Ok(template) = AgentPathTemplate::parse(&template) else { return };
    let data = Value::record(
        "fuzz.data",
        [
            ("Name", Value::from(name.as_str())),
            ("Tags", Value::string_map([("k", name.as_str())])),
            ("Any", Value::map([("list", Value::strings(["a", name.as_str()]))])),
        ],
    );
    if let Ok(output) = template.execute(&data) {
        assert!(output.len() <= 64 * 1024 + 64 * 1024);
    }
});
