//! steeple-agent
