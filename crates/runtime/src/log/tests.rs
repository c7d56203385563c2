use std::fs;
use std::time::{Duration, SystemTime};

use time::UtcOffset;

use super::*;

/// 2026-11-22T06:00:00Z.
const SIX: Duration = Duration::from_secs(1_795_327_200);

/// What `log` writes with `config`, to a file.
fn written(config: &LogConfig, log: impl FnOnce(&LogHandle)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (subscriber, handle) =
        subscriber(&LogConfig { file: Some(path.clone()), ..config.clone() }).unwrap();
    tracing::subscriber::with_default(subscriber, || log(&handle));
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn at(level: Level, format: Format) -> LogConfig {
    LogConfig { level, format, ..LogConfig::default() }
}

/// A line of text without its time.
fn after_time(line: &str) -> &str {
    line.split_once("Z\" ").or_else(|| line.split_once("0\" ")).unwrap().1
}

#[test]
fn text_lines_look_like_logrus() {
    let lines = written(&at(Level::Info, Format::Text), |_| {
        tracing::info!(
            target: "steeple_server",
            subsystem_name = "endpoints",
            network = "unix",
            address = "/tmp/spire-server/private/api.sock",
            "Starting Server APIs"
        );
        tracing::warn!(spiffe_id = "spiffe://example.org/a", count = 3, ok = true, empty = "");
    });
    assert!(lines[0].starts_with("time=\"20"), "{}", lines[0]);
    assert_eq!(
        after_time(&lines[0]),
        "level=info msg=\"Starting Server APIs\" address=/tmp/spire-server/private/api.sock \
         network=unix subsystem_name=endpoints"
    );
    assert_eq!(
        after_time(&lines[1]),
        "level=warning count=3 empty= ok=true spiffe_id=\"spiffe://example.org/a\""
    );
}

#[test]
fn values_are_quoted_as_go_quotes_them() {
    let lines = written(&at(Level::Info, Format::Text), |_| {
        tracing::info!(
            a = "say \"hi\"\\\n\t\x07\x1b[31m",
            b = "größe",
            c = "a\u{200b}b",
            d = "e\u{301}",
            e = "\u{e0001}",
        );
    });
    assert_eq!(
        after_time(&lines[0]),
        "level=info a=\"say \\\"hi\\\"\\\\\\n\\t\\a\\x1b[31m\" b=\"größe\" c=\"a\\u200bb\" \
         d=\"e\u{301}\" e=\"\\U000e0001\""
    );
    assert_eq!(lines.len(), 1, "no value starts a line of its own");
}

/// What logrus 1.9.4 wrote of the same fields.
#[test]
fn a_line_of_everything_is_the_one_that_logrus_writes() {
    let log = |_: &LogHandle| {
        tracing::info!(
            a = "say \"hi\"\\\n\t\x07\x1b[31m",
            b = "größe",
            c = "a\u{200b}b",
            e = "\u{e0001}",
            empty = "",
            level = 1,
            n = 5,
            t = true,
            u = "\u{ad} \u{fffd} \u{2028} \x7f ☃",
            z = "<a&b>",
            "he said \"x\""
        );
    };
    let text = written(&at(Level::Info, Format::Text), log).remove(0);
    assert_eq!(
        after_time(&text),
        r#"level=info msg="he said \"x\"" a="say \"hi\"\\\n\t\a\x1b[31m" b="größe" c="a\u200bb" "#
            .to_owned()
            + r#"e="\U000e0001" empty= fields.level=1 n=5 t=true u="\u00ad "#
            + "\u{fffd}"
            + r#" \u2028 \x7f ☃" z="<a&b>""#
    );
    let json = written(&at(Level::Info, Format::Json), log).remove(0);
    let (head, tail) = json.split_once("\"time\":\"").unwrap();
    assert_eq!(
        head,
        "{\"a\":\"say \\\"hi\\\"\\\\\\n\\t\\u0007\\u001b[31m\",\"b\":\"größe\",\"c\":\"a\u{200b}b\",\
         \"e\":\"\u{e0001}\",\"empty\":\"\",\"fields.level\":1,\"level\":\"info\",\
         \"msg\":\"he said \\\"x\\\"\",\"n\":5,\"t\":true,"
    );
    let (_, tail) = tail.split_once(',').unwrap();
    assert_eq!(
        tail,
        "\"u\":\"\u{ad} \u{fffd} \\u2028 \u{7f} ☃\",\"z\":\"\\u003ca\\u0026b\\u003e\"}"
    );
}

#[test]
fn json_lines_are_sorted_objects_with_bare_numbers() {
    let lines = written(&at(Level::Info, Format::Json), |_| {
        tracing::info!(pid = 7, abc = true, zone = "<a&b>", ratio = 0.5, "he said \"x\"\u{2028}");
    });
    let (head, time) = lines[0].split_once(",\"time\":\"").unwrap();
    assert_eq!(
        head,
        "{\"abc\":true,\"level\":\"info\",\"msg\":\"he said \\\"x\\\"\\u2028\",\"pid\":7,\
         \"ratio\":0.5"
    );
    assert!(time.ends_with("\",\"zone\":\"\\u003ca\\u0026b\\u003e\"}"), "{time}");
}

#[test]
fn a_field_with_the_name_of_a_lines_own_key_is_kept_apart() {
    let log = |_: &LogHandle| {
        tracing::info!(level = 1, msg = "m", earlier = "e", gone = "g", "text");
    };
    let text = written(&at(Level::Info, Format::Text), log);
    assert_eq!(
        after_time(&text[0]),
        "level=info msg=text earlier=e fields.level=1 fields.msg=m gone=g"
    );
    let json = written(&at(Level::Info, Format::Json), log);
    assert!(json[0].starts_with(
        "{\"earlier\":\"e\",\"fields.level\":1,\"fields.msg\":\"m\",\"gone\":\"g\",\
         \"level\":\"info\",\"msg\":\"text\",\"time\":\""
    ));
}

#[test]
fn fields_of_spans_are_on_each_line_inside_and_inner_ones_win() {
    let lines = written(&at(Level::Info, Format::Text), |_| {
        let outer = tracing::info_span!("rpc", method = "Outer", late = tracing::field::Empty);
        let _outer = outer.enter();
        outer.record("late", "now");
        tracing::info_span!("inner", method = "Inner", r#type = "join_token")
            .in_scope(|| tracing::info!("inside"));
        tracing::info!("outside");
    });
    assert_eq!(
        after_time(&lines[0]),
        "level=info msg=inside late=now method=Inner type=join_token"
    );
    assert_eq!(after_time(&lines[1]), "level=info msg=outside late=now method=Outer");
}

#[test]
fn the_level_changes_while_running_and_the_launch_level_is_remembered() {
    let lines = written(&at(Level::Info, Format::Text), |handle| {
        let log = |when: &str| tracing::debug!(target: "steeple_ca", when);
        log("before");
        handle.set_level(Level::Debug);
        log("during");
        assert_eq!((handle.level(), handle.launch_level()), (Level::Debug, Level::Info));
        handle.set_level(Level::Panic);
        log("after");
        tracing::error!("silent");
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with("level=debug when=during"), "{}", lines[0]);
}

#[test]
fn libraries_are_heard_from_warn_up_until_trace() {
    let log = |_: &LogHandle| {
        tracing::info!(target: "h2::codec", "info of a library");
        tracing::warn!(target: "h2::proto::streams", "what any peer can cause");
        tracing::warn!(target: "rustls", "warning of a library");
        tracing::debug!(target: "spire_server", "ours");
    };
    let count = |level| written(&at(level, Format::Text), log).len();
    assert_eq!(count(Level::Debug), 2);
    assert_eq!(count(Level::Trace), 4);
    assert_eq!(count(Level::Error), 0);
}

#[test]
fn source_location_names_the_file_and_line() {
    let config = LogConfig { source_location: true, ..at(Level::Info, Format::Text) };
    let line = written(&config, |_| tracing::info!(zed = 1, "here")).remove(0);
    let tail = after_time(&line);
    assert!(tail.starts_with("level=info msg=here file=\"tests.rs:"), "{tail}");
    assert!(tail.ends_with("func=\"steeple_runtime::log::tests\" zed=1"), "{tail}");
}

#[test]
fn reopening_follows_a_rotated_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let config = LogConfig { file: Some(path.clone()), ..LogConfig::default() };
    let (subscriber, handle) = subscriber(&config).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("first");
        fs::rename(&path, &moved).unwrap();
        tracing::info!("second");
        handle.reopen().unwrap();
        tracing::info!("third");
    });
    assert_eq!(fs::read_to_string(moved).unwrap().lines().count(), 2);
    assert!(fs::read_to_string(&path).unwrap().contains("msg=third"));
    assert_eq!(crate::fsx::mode(&path).unwrap() & 0o137, 0);
    drop(dir);
    let error = handle.reopen().unwrap_err().to_string();
    assert!(error.starts_with("unable to reopen /"), "{error}");
}

#[test]
fn times_are_gos_rfc3339_with_and_without_nanoseconds() {
    let fields = layer::Fields::default();
    let line = |format, offset, nanos| {
        let mut line = String::new();
        let now = SystemTime::UNIX_EPOCH + SIX + Duration::from_nanos(nanos);
        Style::fixed(format, offset).line(&mut line, now, tracing::Level::INFO, &fields);
        line
    };
    let utc = UtcOffset::UTC;
    let india = UtcOffset::from_hms(5, 30, 0).unwrap();
    let west = UtcOffset::from_hms(-3, -30, 0).unwrap();
    let text = |time: &str| format!("time=\"2026-11-22T{time}\" level=info\n");
    assert_eq!(line(Format::Default, utc, 123_456_789), text("06:00:00Z"));
    assert_eq!(line(Format::Text, utc, 123_456_789), text("06:00:00.123456789Z"));
    assert_eq!(line(Format::Text, utc, 120_000_000), text("06:00:00.12Z"));
    assert_eq!(line(Format::Text, utc, 12), text("06:00:00.000000012Z"));
    assert_eq!(line(Format::Text, utc, 0), text("06:00:00Z"));
    assert_eq!(line(Format::Text, india, 0), text("11:30:00+05:30"));
    assert_eq!(line(Format::Text, west, 0), text("02:30:00-03:30"));
}

#[test]
fn a_terminal_gets_colour_and_no_control_characters() {
    let mut line = String::new();
    let fields = layer::Fields::default();
    Style::terminal().line(&mut line, SystemTime::UNIX_EPOCH, tracing::Level::INFO, &fields);
    assert_eq!(line, format!("\x1b[36mINFO\x1b[0m[0000] {}\n", " ".repeat(45)));
}

#[test]
fn names_of_levels_and_formats_are_those_of_spire() {
    for (text, level) in [
        ("warn", Level::Warn),
        ("WARNING", Level::Warn),
        ("Info", Level::Info),
        ("panic", Level::Panic),
        ("trace", Level::Trace),
    ] {
        assert_eq!(text.parse::<Level>().unwrap(), level);
    }
    let error = |text: &str| text.parse::<Level>().unwrap_err().to_string();
    assert_eq!(error("loud"), "not a valid logrus Level: \"loud\"");
    assert!(error(&"x".repeat(10_000)).len() < 100);
    assert_eq!("JSON".parse::<Format>().unwrap(), Format::Json);
    assert_eq!("".parse::<Format>().unwrap(), Format::Default);
    let error = "xml".parse::<Format>().unwrap_err().to_string();
    assert_eq!(error, "unknown logger format: \"xml\"");
}

#[test]
fn a_value_that_logs_while_printed_does_not_hang() {
    struct Chatty;
    impl fmt::Display for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            tracing::info!("inner");
            f.write_str("chatty")
        }
    }
    let lines =
        written(&at(Level::Info, Format::Text), |_| tracing::info!(value = %Chatty, "outer"));
    assert!(lines.iter().any(|line| line.ends_with("value=chatty")), "{lines:?}");
}

#[test]
fn fields_of_any_name_stand_among_the_others_in_order() {
    let mut extra = Extra::new();
    extra.text("entry_id", "a b");
    extra.bare("x509_svid_ttl", 60);
    extra.text("key.0", "evil\u{1e}level\u{1f}tb");
    extra.text("level", "mine");
    let log = |_: &LogHandle| tracing::info!(status = "success", method = "M", log.extra = ?extra, "API accessed");
    let lines = written(&at(Level::Info, Format::Text), log);
    assert_eq!(
        after_time(&lines[0]),
        "level=info msg=\"API accessed\" entry_id=\"a b\" fields.level=mine \
         key.0=\"evil\u{fffd}level\u{fffd}tb\" method=M status=success x509_svid_ttl=60"
    );
    let lines = written(&at(Level::Info, Format::Json), log);
    assert!(lines[0].contains("\"entry_id\":\"a b\",\"fields.level\":\"mine\""), "{}", lines[0]);
    assert!(lines[0].contains("\"x509_svid_ttl\":60"), "{}", lines[0]);
}
