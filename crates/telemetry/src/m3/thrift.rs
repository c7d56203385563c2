//! `emitMetricBatchV2` in the Thrift compact protocol: only what M3 is sent.

use std::time::{SystemTime, UNIX_EPOCH};

/// A metric of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) value: MetricValue,
    pub(crate) tags: Vec<(String, String)>,
}

/// What it counts or shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MetricValue {
    Count(i64),
    Gauge(f64),
}

/// Writes batches of one reporter.
pub(crate) struct Batch {
    common_tags: Vec<u8>,
    size: usize,
    sequence: u32,
}

const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// What a batch has besides metrics and common tags, at most.
const OVERHEAD: usize = 48;

impl Batch {
    pub(crate) fn new(tags: &[(String, String)], size: usize) -> Self {
        let mut common_tags = Vec::new();
        write_tags(&mut common_tags, tags);
        Self { common_tags, size, sequence: 0 }
    }

    /// As many datagrams as the metrics need; a metric that fits none is left
    /// out.
    pub(crate) fn encode(&mut self, metrics: &[Metric], now: SystemTime) -> Vec<Vec<u8>> {
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let room = self.size.saturating_sub(self.common_tags.len() + OVERHEAD);
        let (mut packets, mut body, mut count) = (Vec::new(), Vec::new(), 0);
        for metric in metrics {
            let mut one = Vec::new();
            write_metric(&mut one, metric, nanos);
            if one.len() > room {
                continue;
            }
            if body.len() + one.len() > room {
                packets.push(self.packet(&body, count));
                (body, count) = (Vec::new(), 0);
            }
            body.extend(one);
            count += 1;
        }
        if count > 0 {
            packets.push(self.packet(&body, count));
        }
        packets
    }

    fn packet(&mut self, metrics: &[u8], count: usize) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        // Protocol, version 1 with the type ONEWAY, sequence, name.
        let mut out = vec![0x82, 0x81];
        varint(&mut out, self.sequence.into());
        string(&mut out, "emitMetricBatchV2");
        field(&mut out, 1, STRUCT);
        field(&mut out, 1, LIST);
        list(&mut out, count, STRUCT);
        out.extend(metrics);
        field(&mut out, 1, LIST);
        out.extend(&self.common_tags);
        // The end of the batch and of the arguments.
        out.extend([0, 0]);
        out
    }
}

fn write_metric(out: &mut Vec<u8>, metric: &Metric, nanos: i64) {
    field(out, 1, BINARY);
    string(out, &metric.name);
    field(out, 1, STRUCT);
    let (sort, count, gauge) = match metric.value {
        MetricValue::Count(count) => (1, count, 0.0),
        MetricValue::Gauge(gauge) => (2, 0, gauge),
    };
    field(out, 1, I32);
    zigzag(out, sort);
    field(out, 1, I64);
    zigzag(out, count);
    field(out, 1, DOUBLE);
    out.extend(gauge.to_le_bytes());
    field(out, 1, I64);
    zigzag(out, 0);
    out.push(0);
    field(out, 1, I64);
    zigzag(out, nanos);
    if !metric.tags.is_empty() {
        field(out, 1, LIST);
        write_tags(out, &metric.tags);
    }
    out.push(0);
}

fn write_tags(out: &mut Vec<u8>, tags: &[(String, String)]) {
    list(out, tags.len(), STRUCT);
    for (name, value) in tags {
        field(out, 1, BINARY);
        string(out, name);
        field(out, 1, BINARY);
        string(out, value);
        out.push(0);
    }
}

/// A field's header: its distance from the one before, and its type.
fn field(out: &mut Vec<u8>, distance: u8, sort: u8) {
    out.push(distance << 4 | sort);
}

fn list(out: &mut Vec<u8>, length: usize, sort: u8) {
    match length {
        0..15 => out.push((length as u8) << 4 | sort),
        _ => {
            out.push(0xf0 | sort);
            varint(out, length as u64);
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn zigzag(out: &mut Vec<u8>, value: i64) {
    varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
