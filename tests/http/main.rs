//! The layer of HTTP, over real sockets.

mod conformance;
mod server;
