//! The pprof profile format (`profile.proto`), as much as is written here.

use std::collections::HashMap;
use std::io;

use prost::Message;
use steeple_telemetry::process::Process;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Collects samples of stacks into a profile.
pub(super) struct Builder {
    profile: Profile,
    strings: HashMap<String, i64>,
    locations: HashMap<(String, String, u32), u64>,
    functions: HashMap<(String, String), u64>,
}

/// A place in the code.
pub(super) struct Frame {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
}

impl Builder {
    /// A profile of values with these names and units.
    pub(super) fn new(values: &[(&str, &str)]) -> Self {
        let mut builder = Self {
            profile: Profile::default(),
            strings: HashMap::new(),
            locations: HashMap::new(),
            functions: HashMap::new(),
        };
        builder.string("");
        for (kind, unit) in values {
            let value = ValueType { kind: builder.string(kind), unit: builder.string(unit) };
            builder.profile.sample_type.push(value);
        }
        builder
    }

    /// When it began, how long it took, and one sample's distance to the next.
    pub(super) fn times(
        &mut self,
        began: std::time::SystemTime,
        took: std::time::Duration,
        period: i64,
    ) {
        let since = began.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.profile.time_nanos = i64::try_from(since.as_nanos()).unwrap_or(0);
        self.profile.duration_nanos = i64::try_from(took.as_nanos()).unwrap_or(0);
        let value = ValueType { kind: self.string("cpu"), unit: self.string("nanoseconds") };
        self.profile.period_type = Some(value);
        self.profile.period = period;
    }

    /// Adds a stack, innermost first.
    pub(super) fn sample(&mut self, stack: Vec<Frame>, value: Vec<i64>, thread: &str) {
        let location_id = stack.into_iter().map(|frame| self.location(&frame)).collect();
        let label = match thread {
            "" => Vec::new(),
            thread => vec![Label { key: self.string("thread"), text: self.string(thread) }],
        };
        self.profile.sample.push(Sample { location_id, value, label });
    }

    /// The encoded profile.
    pub(super) fn finish(self) -> Vec<u8> {
        self.profile.encode_to_vec()
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let key = (frame.function.clone(), frame.file.clone(), frame.line);
        if let Some(id) = self.locations.get(&key) {
            return *id;
        }
        let function_id = self.function(frame);
        let id = self.profile.location.len() as u64 + 1;
        let line = Line { function_id, line: frame.line.into() };
        self.profile.location.push(Location { id, line: vec![line] });
        self.locations.insert(key, id);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let key = (frame.function.clone(), frame.file.clone());
        if let Some(id) = self.functions.get(&key) {
            return *id;
        }
        let (name, filename) = (self.string(&frame.function), self.string(&frame.file));
        let id = self.profile.function.len() as u64 + 1;
        self.profile.function.push(Function { id, name, system_name: name, filename });
        self.functions.insert(key, id);
        id
    }
}

/// The process's memory as a profile with one sample per kind of memory.
pub(super) fn memory(process: &Process) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(&[("inuse_space", "bytes")]);
    for (name, bytes) in [
        ("anonymous", process.anonymous),
        ("file_backed", process.resident.saturating_sub(process.anonymous)),
    ] {
        let frame = Frame { function: name.to_owned(), file: String::new(), line: 0 };
        builder.sample(vec![frame], vec![i64::try_from(bytes).unwrap_or(i64::MAX)], "");
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_frames_and_strings_are_written_once() {
        let frame = || Frame { function: "f".into(), file: "a.rs".into(), line: 3 };
        let mut builder = Builder::new(&[("samples", "count")]);
        builder.sample(vec![frame(), frame()], vec![1], "main");
        builder.sample(vec![frame()], vec![2], "main");
        let profile = Profile::decode(builder.finish().as_slice()).unwrap();
        assert_eq!(profile.string_table, ["", "samples", "count", "f", "a.rs", "thread", "main"]);
        assert_eq!((profile.location.len(), profile.function.len()), (1, 1));
        assert_eq!(profile.sample[0].location_id, [1, 1]);
        assert_eq!(profile.sample[1].value, [2]);
    }
}
