use std::time::{SystemTime, UNIX_EPOCH};

use steeple_runtime::{ManualClock, Tasks, drain};

use super::*;

fn name(kind: Kind, key: &str) -> SeriesName {
    let labels = vec![("status".into(), "OK".into()), ("host".into(), "vm".into())];
    let key = vec!["spire_server".into(), kind.as_str().into(), "a".into(), key.into()];
    SeriesName { kind, key, labels }
}

fn told(shared: &Shared) -> Vec<String> {
    let metrics = shared.collect();
    metrics
        .iter()
        .map(|metric| {
            let tags: Vec<String> = metric.tags.iter().map(|(n, v)| format!("{n}={v}")).collect();
            format!("{} {:?} {}", metric.name, metric.value, tags.join(","))
        })
        .collect()
}

#[test]
fn reports_hold_what_changed_in_tallys_buckets() {
    let (sink, _task) =
        M3::new("spire_server", "127.0.0.1:9", "prod", Arc::new(ManualClock::default()));
    let counter = sink.series(&name(Kind::Counter, "count"));
    counter.record(1.0);
    counter.record(2.0);
    sink.series(&name(Kind::Gauge, "gauge")).record(1.5);
    let timer = sink.series(&name(Kind::Timer, "timer"));
    for value in [0.9, 10.0, 10.7, 30_001.0] {
        timer.record(value);
    }
    sink.series(&name(Kind::Sample, "sample")).record(10_001.0);
    assert_eq!(
        told(&sink.0),
        [
            "a_count Count(3) host=vm,status=OK",
            "a_gauge Gauge(1.5) host=vm,status=OK",
            "a_sample Count(1) host=vm,status=OK,bucketid=0006,bucket=10000.000000-infinity",
            "a_timer Count(1) host=vm,status=OK,bucketid=0000,bucket=-infinity-0",
            "a_timer Count(2) host=vm,status=OK,bucketid=0001,bucket=0-10ms",
            "a_timer Count(1) host=vm,status=OK,bucketid=0020,bucket=30s-infinity",
        ]
    );
    assert_eq!(told(&sink.0), [] as [&str; 0], "nothing changed since");
}

/// Bytes that a `tally` of Go sent for a gauge `started` of 1 with two tags,
/// its time replaced.
#[test]
fn the_bytes_are_those_of_the_compact_protocol() {
    let tag = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    let mut batch = Batch::new(&[tag("service", "spire_server"), tag("env", "prod")], PACKET);
    let metric = Metric {
        name: "started".into(),
        value: MetricValue::Gauge(1.0),
        tags: vec![tag("trust_domain", "example_org"), tag("host", "vm")],
    };
    let packets = batch.encode(&[metric], UNIX_EPOCH + Duration::from_nanos(1));
    let mut expected = b"\x82\x81\x01\x11emitMetricBatchV2\x1c\x19\x1c\x18\x07started\x1c".to_vec();
    expected.extend(b"\x15\x04\x16\x00\x17\x00\x00\x00\x00\x00\x00\xf0?\x16\x00\x00\x16\x02\x19,");
    expected.extend(b"\x18\x0ctrust_domain\x18\x0bexample_org\x00\x18\x04host\x18\x02vm\x00\x00");
    expected.extend(b"\x19,\x18\x07service\x18\x0cspire_server\x00\x18\x03env\x18\x04prod\x00");
    expected.extend(b"\x00\x00");
    assert_eq!(packets, [expected]);
}

#[test]
fn packets_stay_below_the_limit_and_lose_no_metric() {
    let mut batch = Batch::new(&[], 1000);
    let metric = |n: usize| Metric {
        name: format!("metric_{n:04}"),
        value: MetricValue::Count(1),
        tags: Vec::new(),
    };
    let metrics: Vec<Metric> = (0..200).map(metric).collect();
    let packets = batch.encode(&metrics, SystemTime::UNIX_EPOCH);
    assert!(packets.len() > 5 && packets.iter().all(|packet| packet.len() <= 1000));
    let all = packets.concat();
    let found = (0..200).filter(|n| {
        let name = format!("metric_{n:04}");
        all.windows(name.len()).any(|bytes| bytes == name.as_bytes())
    });
    assert_eq!(found.count(), 200);
}

#[tokio::test]
async fn the_last_report_is_sent_when_the_process_ends() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let clock = Arc::new(ManualClock::default());
    let (sink, task) = M3::new("spire_agent", &address, "prod", clock);
    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("m3", task(watcher));
    sink.series(&name(Kind::Counter, "count")).record(1.0);
    assert!(trigger.drain(Duration::from_secs(20)).await);
    let mut packet = [0; 2048];
    let received = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut packet));
    let length = received.await.expect("a datagram comes").unwrap();
    assert!(packet[..length].windows(7).any(|bytes| bytes == b"a_count"));
    tasks.join().await.unwrap();
}
