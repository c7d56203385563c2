//! steeple-plugin
