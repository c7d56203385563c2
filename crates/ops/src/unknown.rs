use steeple_config::Problems;
use steeple_runtime::log::{self, LogConfig};

/// Writes the log's lines about unknown keys, which come although the program does not start. How
/// to log is not known then, so they go where a log goes that nothing is said of.
pub fn tell_unknown(problems: &Problems) {
    if problems.unknown_sections().is_empty() || log::init(&LogConfig::default()).is_err() {
        return;
    }
    for unknown in problems.unknown_sections() {
        let (section, keys) = (unknown.section.as_str(), unknown.keys.join(","));
        tracing::error!(section, keys, "Unknown configuration detected");
    }
}
