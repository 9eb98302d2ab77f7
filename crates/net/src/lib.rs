//! Sockets, TLS, HTTP and WebSockets: bytes in, bytes out.
//!
//! Why: devices and back ends share ports 443 and 5671 and the same framing, so neither front end can own the
//! listeners. The composition root binds them here and registers a handler for each kind of stream.
//! Invariants: one core's sockets stay on that core; every handshake has a deadline; connections that have not
//! authenticated are counted and bounded; no byte of a peer is logged.
//! Not here: MQTT, AMQP, REST and identities.
#![warn(missing_docs)]

mod accept;
mod config;
pub mod connection;
mod http;
pub mod http_api;
mod listen;
mod metrics;
mod proxy_protocol;
pub mod router;
mod socket;
mod stream;
mod tls;
mod websocket;

pub use self::metrics::METRICS;
pub use accept::{Accepted, Rejected, accept_loop};
pub use config::NetConfig;
pub use http::{Body, Handler, HttpService, StreamHandler, empty_body, serve_http, serve_stream};
pub use listen::{BindError, bind};
pub use proxy_protocol::ProxyHeadError;
pub use socket::Socket;
pub use stream::{ByteStream, Peer};
pub use tls::{
    CertificateReload, FileStamps, HandshakeTime, NameKind, ReloadOutcome, ServerCertificates, ServerIdentity,
    ServerNames, Staple, TlsError, TlsOptions, TlsServer, accept_tls,
};
