//! The layer of HTTP, over real sockets.

mod conformance;
mod connections;
mod kept;
mod killed;
mod load;
mod principals;
mod refused;
mod runs;
mod server;
mod services;
mod settings;
