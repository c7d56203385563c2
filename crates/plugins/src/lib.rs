//! steeple-plugins
