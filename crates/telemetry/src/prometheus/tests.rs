use super::*;

fn name(kind: Kind, key: &[&str], labels: &[(&str, &str)]) -> SeriesName {
    SeriesName {
        kind,
        key: key.iter().map(ToString::to_string).collect(),
        labels: labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
    }
}

#[test]
fn numbers_are_written_as_go_writes_them() {
    for (value, text) in [
        (1.0, "1"),
        (0.0, "0"),
        (-1.0, "-1"),
        (1.5, "1.5"),
        (1e5, "100000"),
        (123_456.0, "123456"),
        (1e6, "1e+06"),
        (21_807_728.0, "2.1807728e+07"),
        (12_345_678.5, "1.23456785e+07"),
        (1e21, "1e+21"),
        (0.0001, "0.0001"),
        (0.000_01, "1e-05"),
        (1_795_425_092.0, "1.795425092e+09"),
        (86_399.390_625, "86399.390625"),
        (5e-324, "5e-324"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
    ] {
        assert_eq!(float(value), text);
    }
}

#[test]
fn the_text_is_that_of_spire() {
    let sink = Prometheus::new();
    let now = Instant::now();
    let labels = &[("status", "OK"), ("trust_domain", "example_org"), ("host", "vm")];
    sink.series(&name(Kind::Gauge, &["spire_server", "uptime_in_ms"], &labels[1..])).record(16.0);
    let counter = sink.series(&name(Kind::Counter, &["spire_server", "a-b.c d", "x"], labels));
    counter.record(1.0);
    counter.record(2.0);
    counter.record(-5.0);
    let timer = sink.series(&name(Kind::Timer, &["spire_server", "x", "elapsed_time"], labels));
    timer.record(1.5);
    assert_eq!(
        sink.render(now),
        "# HELP spire_server_a_b_c_d_x spire_server_a_b_c_d_x\n\
         # TYPE spire_server_a_b_c_d_x counter\n\
         spire_server_a_b_c_d_x{host=\"vm\",status=\"OK\",trust_domain=\"example_org\"} 3\n\
         # HELP spire_server_uptime_in_ms spire_server_uptime_in_ms\n\
         # TYPE spire_server_uptime_in_ms gauge\n\
         spire_server_uptime_in_ms{host=\"vm\",trust_domain=\"example_org\"} 16\n\
         # HELP spire_server_x_elapsed_time spire_server_x_elapsed_time\n\
         # TYPE spire_server_x_elapsed_time summary\n\
         spire_server_x_elapsed_time{host=\"vm\",status=\"OK\",trust_domain=\"example_org\",quantile=\"0.5\"} 1.5\n\
         spire_server_x_elapsed_time{host=\"vm\",status=\"OK\",trust_domain=\"example_org\",quantile=\"0.9\"} 1.5\n\
         spire_server_x_elapsed_time{host=\"vm\",status=\"OK\",trust_domain=\"example_org\",quantile=\"0.99\"} 1.5\n\
         spire_server_x_elapsed_time_sum{host=\"vm\",status=\"OK\",trust_domain=\"example_org\"} 1.5\n\
         spire_server_x_elapsed_time_count{host=\"vm\",status=\"OK\",trust_domain=\"example_org\"} 1\n"
    );
}

#[test]
fn quantiles_are_of_the_last_ten_seconds_and_sums_of_all_time() {
    let mut summary = Summary::default();
    let start = Instant::now();
    for value in 1..=100 {
        summary.add(f64::from(value), start);
    }
    assert_eq!(summary.quantiles(start), [50.0, 90.0, 99.0]);
    let later = start + Duration::from_secs(11);
    assert!(summary.quantiles(later).iter().all(|q| q.is_nan()));
    assert_eq!((summary.count, summary.sum), (100, 5050.0));
}

#[test]
fn a_distribution_keeps_a_bounded_number_of_values() {
    let mut summary = Summary::default();
    let now = Instant::now();
    for _ in 0..MAX_VALUES * 3 {
        summary.add(1.0, now);
    }
    assert_eq!(summary.recent.len(), MAX_VALUES);
    assert_eq!(summary.count as usize, MAX_VALUES * 3);
}

#[test]
fn label_values_are_escaped() {
    let text = labels(&name(Kind::Gauge, &["g"], &[("host", "a\"b\\c\nd")]));
    assert_eq!(text, r#"host="a\"b\\c\nd""#);
}
