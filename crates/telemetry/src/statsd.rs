//! The StatsD and DogStatsD sinks.

use std::sync::Arc;

use steeple_runtime::Watcher;

use crate::registry::{Kind, Recorder, SeriesName, Sink};
use crate::udp::{self, Line, LineName, Lines, Packing, Sending, Target};

/// StatsD: label values are parts of the name.
pub struct Statsd(Lines);

impl Statsd {
    /// The sink, and the task that sends for it.
    pub fn new(address: &str) -> (Self, impl FnOnce(Watcher) -> Sending + Send + use<>) {
        let packing = Packing { name: "Statsd", size: 1400 };
        let (lines, task) = udp::queue(Target::parse(address), packing);
        (Self(lines), task)
    }
}

impl Sink for Statsd {
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let values = name.labels.iter().map(|(_, value)| value);
        let parts: Vec<&str> = name.key.iter().chain(values).map(String::as_str).collect();
        recorder(&self.0, name.kind, &parts.join("."), "", |_| |value| format!("{value:.6}"))
    }
}

/// DogStatsD: labels are tags.
pub struct DogStatsd {
    lines: Lines,
    tags: Vec<String>,
}

impl DogStatsd {
    /// The sink, and the task that sends for it. `tags` go with every metric.
    pub fn new(
        address: &str,
        tags: Vec<String>,
    ) -> (Self, impl FnOnce(Watcher) -> Sending + Send + use<>) {
        let packing = Packing { name: "DogStatsd", size: 1432 };
        let (lines, task) = udp::queue(Target::parse(address), packing);
        (Self { lines, tags }, task)
    }
}

impl Sink for DogStatsd {
    fn series(&self, name: &SeriesName) -> Box<dyn Recorder> {
        let own = name.labels.iter().map(|(name, value)| match value.as_str() {
            "" => clean(name),
            value => format!("{}:{}", clean(name), clean(value)),
        });
        let tags: Vec<String> = self.tags.iter().cloned().chain(own).collect();
        let tags = match tags.join(",") {
            none if none.is_empty() => none,
            tags => format!("|#{}", tags.replace('\n', "")),
        };
        recorder(&self.lines, name.kind, &name.key.join("."), &tags, |kind| match kind {
            Kind::Counter => |value| format!("{}", value as i64),
            Kind::Gauge => |value| format!("{value}"),
            Kind::Sample | Kind::Timer => |value| format!("{value:.6}"),
        })
    }
}

/// Tags that Datadog's own clients take from the environment.
pub fn datadog_tags(env: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let names = [
        ("DD_ENTITY_ID", "dd.internal.entity_id"),
        ("DD_ENV", "env"),
        ("DD_SERVICE", "service"),
        ("DD_VERSION", "version"),
    ];
    let tag = |(variable, tag)| Some(format!("{tag}:{}", env(variable).filter(|v| !v.is_empty())?));
    names.into_iter().filter_map(tag).collect()
}

fn clean(text: &str) -> String {
    text.replace([':', ' '], "_")
}

fn recorder(
    lines: &Lines,
    kind: Kind,
    name: &str,
    tags: &str,
    format: impl Fn(Kind) -> fn(f64) -> String,
) -> Box<dyn Recorder> {
    let sort = match kind {
        Kind::Counter => "c",
        Kind::Gauge => "g",
        Kind::Sample | Kind::Timer => "ms",
    };
    let name = LineName {
        head: format!("{}:", clean(name)),
        tail: format!("|{sort}{tags}\n"),
        format: format(kind),
    };
    Box::new(Queued { lines: lines.clone(), series: Arc::new(name) })
}

struct Queued {
    lines: Lines,
    series: Arc<LineName>,
}

impl Recorder for Queued {
    fn record(&self, value: f64) {
        // A full queue drops the newest, as go-metrics does.
        let _ = self.lines.try_send(Line { series: Arc::clone(&self.series), value });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_runtime::{Tasks, drain};
    use tokio::net::UdpSocket;

    use super::*;

    fn name(kind: Kind) -> SeriesName {
        SeriesName {
            kind,
            key: vec!["spire_server".into(), "a".into(), "b c".into()],
            labels: vec![
                ("status".into(), "OK".into()),
                ("empty".into(), String::new()),
                ("host".into(), "h:1".into()),
            ],
        }
    }

    async fn receive(socket: &UdpSocket) -> String {
        let mut packet = vec![0; 65536];
        let received = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut packet));
        let length = received.await.expect("a datagram comes").unwrap();
        String::from_utf8(packet[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn lines_are_those_of_go_metrics() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();

        let (sink, task) = Statsd::new(&address);
        sink.series(&name(Kind::Counter)).record(1.0);
        sink.series(&name(Kind::Gauge)).record(86_399.390_625);
        sink.series(&name(Kind::Timer)).record(0.211_236_4);
        tasks.spawn("statsd", task(watcher.clone()));
        assert_eq!(
            receive(&socket).await,
            "spire_server.a.b_c.OK..h_1:1.000000|c\n\
             spire_server.a.b_c.OK..h_1:86399.390625|g\n\
             spire_server.a.b_c.OK..h_1:0.211236|ms\n"
        );

        let (sink, task) = DogStatsd::new(&address, vec!["env:prod".into()]);
        sink.series(&name(Kind::Counter)).record(2.0);
        sink.series(&name(Kind::Gauge)).record(0.5);
        sink.series(&name(Kind::Sample)).record(3.0);
        tasks.spawn("dogstatsd", task(watcher));
        assert_eq!(
            receive(&socket).await,
            "spire_server.a.b_c:2|c|#env:prod,status:OK,empty,host:h_1\n\
             spire_server.a.b_c:0.5|g|#env:prod,status:OK,empty,host:h_1\n\
             spire_server.a.b_c:3.000000|ms|#env:prod,status:OK,empty,host:h_1\n"
        );
        assert!(trigger.drain(Duration::from_secs(20)).await);
        tasks.join().await.unwrap();
    }

    #[tokio::test]
    async fn a_datagram_stays_below_its_size_and_the_rest_follows() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (trigger, watcher) = drain::channel();
        let tasks = Tasks::new();
        let (sink, task) = Statsd::new(&socket.local_addr().unwrap().to_string());
        let series = sink.series(&name(Kind::Counter));
        for _ in 0..100 {
            series.record(1.0);
        }
        tasks.spawn("statsd", task(watcher));
        let mut lines = 0;
        while lines < 100 {
            let packet = receive(&socket).await;
            assert!(packet.len() <= 1400 && packet.ends_with('\n'));
            lines += packet.lines().count();
        }
        assert_eq!(lines, 100);
        assert!(trigger.drain(Duration::from_secs(20)).await);
        tasks.join().await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_sink_drops_and_never_blocks() {
        let (sink, _task_that_never_runs) = Statsd::new("127.0.0.1:9");
        let series = sink.series(&name(Kind::Counter));
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            series.record(1.0);
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn datadogs_environment_gives_tags() {
        let env = |name: &str| (name == "DD_ENV").then(|| "prod".to_owned());
        assert_eq!(datadog_tags(env), ["env:prod"]);
    }
}
