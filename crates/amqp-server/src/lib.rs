//! Serves AMQP 1.0 connections: SASL and `$cbs`, tokens, request/response nodes, and links by address.
//!
//! Why: readers of events and devices share port 5671 and even one connection, so that authentication, deadlines
//! and refusals belong to the connection; the addresses belong to services ([`LinkService`]) that know nothing of it.
//! Wire facts: Spec amqp §1 to §5, §9.
//! Invariants: one connection is one task on one core; the output of a connection is bounded by
//! [`ServerConfig::output_bytes`] plus the credit and window of the peer; every refusal has a number and reaches the
//! [`Authority`]; a connection without an authenticated identity is closed after a minute; a client that repeats a
//! refused request at once is answered later and later.
//! Not here: AMQP itself (`amqp`), sockets and buffers (`net`), signatures (`auth`), what links carry (`service-api`, `gateway`), policies and the audit
//! log (behind [`Authority`]).
//! Start at [`AmqpServer`], of which each core has one, then `connection.rs`.
#![warn(missing_docs)]

mod authority;
mod breakage;
mod config;
mod connection;
mod credentials;
mod delayed;
mod dispatch;
mod handler;
mod links;
mod metrics;
mod refusal;
mod request_node;
mod server;
mod tokens;

pub use authority::{Authority, Carrier, Confirmation, Purpose, RefusedPrincipal};
pub use breakage::Breakage;
pub use config::ServerConfig;
pub use credentials::{Certainty, Verdict, present};
pub use handler::{Answered, AuthorizationChange, IdentityToken, Leaving, LinkHandler, LinkService};
pub use links::{Links, TokenReply, response};
pub use metrics::METRICS;
pub use refusal::{LINK_STOLEN, Refused};
pub use request_node::RequestNode;
pub use server::AmqpServer;
pub use tokens::{Tokens, TooManyTokens, token_path};
