//! steeple-server-api
