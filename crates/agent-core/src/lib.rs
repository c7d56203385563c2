//! steeple-agent-core
