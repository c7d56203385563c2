//! The protocol's services over the plugin traits, a file per kind or two.

pub(crate) mod key_manager;
pub(crate) mod node_attestor;
mod simple;
pub(crate) mod upstream_authority;

/// A plugin whose calls need no state.
pub(crate) struct Adapted<T>(pub(crate) T);
