//! Spans: what a call was part of, for a collector of traces.
//!
//! A trace begins with a remote procedure call; the calls that are timed within
//! it are its children. Background work has no spans of its own.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;

/// Spans that may wait; more are dropped.
const QUEUE: usize = 4096;

/// Which trace and span something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span.
    pub span_id: [u8; 8],
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The key's parts, joined by dots.
    pub name: String,
    /// Its own ids.
    pub context: SpanContext,
    /// The span it was part of.
    pub parent: Option<[u8; 8]>,
    /// Whether it is the serving side of a call.
    pub serves: bool,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// The name of a gRPC code.
    pub status: String,
    /// Labels.
    pub labels: Vec<(&'static str, String)>,
}

/// Sends this share of the traces that begin here to the receiver, until the
/// guard is dropped.
#[must_use = "spans end with the guard"]
pub fn install(ratio: f64) -> (Recording, mpsc::Receiver<Span>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let tracer = Arc::new(Tracer { ratio, sender });
    TRACER.store(Some(Arc::clone(&tracer)));
    (Recording(tracer), receiver)
}

/// Ends the recording of spans when it is dropped.
pub struct Recording(Arc<Tracer>);

impl Drop for Recording {
    fn drop(&mut self) {
        if TRACER.load().as_ref().is_some_and(|tracer| Arc::ptr_eq(tracer, &self.0)) {
            TRACER.store(None);
        }
    }
}

struct Tracer {
    ratio: f64,
    sender: mpsc::Sender<Span>,
}

static TRACER: ArcSwapOption<Tracer> = ArcSwapOption::const_empty();

tokio::task_local! {
    static CURRENT: Option<SpanContext>;
}

pub(crate) fn is_enabled() -> bool {
    TRACER.load().is_some()
}

/// A span for a call that comes from outside, and its parent. A caller may
/// name its trace, but how many are recorded is decided here.
pub(crate) fn begin_rpc(traceparent: Option<&str>) -> Option<(SpanContext, Option<[u8; 8]>)> {
    let tracer = TRACER.load();
    let tracer = tracer.as_ref()?;
    let incoming = traceparent.and_then(parse);
    if incoming.is_some_and(|(_, sampled)| !sampled) || fastrand::f64() >= tracer.ratio {
        return None;
    }
    let parent = incoming.map(|(context, _)| context);
    let trace_id = parent.map_or_else(random, |parent| parent.trace_id);
    let context = SpanContext { trace_id, span_id: random() };
    Some((context, parent.map(|parent| parent.span_id)))
}

/// A span for something within the current one.
pub(crate) fn begin_child() -> Option<(SpanContext, Option<[u8; 8]>)> {
    if !is_enabled() {
        return None;
    }
    let parent = CURRENT.try_get().ok()??;
    let context = SpanContext { trace_id: parent.trace_id, span_id: random() };
    Some((context, Some(parent.span_id)))
}

/// Not `async`, and the same with a context or without, so that there is room for `work` once.
pub(crate) fn scope<F: Future>(
    context: Option<SpanContext>,
    work: F,
) -> impl Future<Output = F::Output> + use<F> {
    CURRENT.scope(context, work)
}

pub(crate) fn end(span: Span) {
    if let Some(tracer) = TRACER.load().as_ref() {
        // A full queue drops the newest.
        let _ = tracer.sender.try_send(span);
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fastrand::Rng::new().fill(&mut bytes);
    // All zeros would be invalid.
    bytes[N - 1] |= 1;
    bytes
}

/// `00-<trace>-<span>-<flags>`; whether it is sampled comes second.
fn parse(text: &str) -> Option<(SpanContext, bool)> {
    let text = text.strip_prefix("00-")?;
    let (trace, rest) = text.split_at_checked(32)?;
    let (span, flags) = rest.strip_prefix('-')?.split_at_checked(16)?;
    let flags = flags.strip_prefix('-').filter(|flags| flags.len() == 2)?;
    let context = SpanContext { trace_id: hex(trace)?, span_id: hex(span)? };
    let valid = context.trace_id != [0; 16] && context.span_id != [0; 8];
    let [flags] = hex::<1>(flags)?;
    valid.then_some((context, flags & 1 == 1))
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_by_the_letter() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (context, sampled) = parse(good).unwrap();
        assert!(sampled);
        assert_eq!(context.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(context.span_id[7], 0x31);
        assert!(!parse(&good.replace("-01", "-00")).unwrap().1);
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319cüb7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn calls_within_a_call_are_its_children() {
        let _global = crate::GLOBAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (recording, mut spans) = install(1.0);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let rpc = crate::rpc::call("/SpiffeWorkloadAPI/FetchX509SVID", Some(parent));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(rpc.scope(async {
            crate::call(&["datastore", "node", "fetch"]).with("what", "it").status("NotFound");
        }));
        rpc.status("OK");
        crate::call(&["background"]).ok();
        drop(recording);
        let child = spans.blocking_recv().unwrap();
        let outer = spans.blocking_recv().unwrap();
        assert_eq!(spans.blocking_recv(), None, "work without a call has no span");
        assert_eq!(outer.name, "rpc.workload_api.fetch_x509svid");
        assert_eq!(outer.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        assert!(outer.serves && !child.serves);
        assert_eq!(child.name, "datastore.node.fetch");
        assert_eq!(child.status, "NotFound");
        assert_eq!(child.parent, Some(outer.context.span_id));
        assert_eq!(child.context.trace_id, outer.context.trace_id);
        assert_eq!(child.labels, [("what", "it".to_owned())]);
    }
}
