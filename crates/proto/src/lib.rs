//! steeple-proto
