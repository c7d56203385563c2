//! steeple-agent-api
