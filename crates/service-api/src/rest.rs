//! The HTTPS service API: devices, modules, bulk, statistics, and our own additions (Spec rest).
//!
//! Why one handler for all paths: the original matches fixed words in any case, decodes once, and checks api-version and
//! credentials before it says whether a path exists; a table of routes cannot express that order.
//! Order of checks (Spec rest §1.2): api-version, authentication, authorization, path, path ids, `If-Match`, body. A
//! caller without rights learns nothing about what exists.
//! Invariants: requests, bodies and waiting are bounded; every refusal and every write reaches the audit log; no key
//! stands in a log line or an error text.
//! Not here: listeners and TLS (`net`), what a write means (`registry`), twins, methods, jobs, queries (later; their
//! paths answer 404013).
//! Start at [`router`], then `pipeline.rs`.

mod admin;
mod authorize;
mod body;
mod calls;
mod config;
mod device_hub;
mod document;
mod error;
mod etag;
mod json;
mod metrics;
mod path;
mod pipeline;
mod reply;
mod route;
mod service;
mod state;
mod times;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::Request;

pub use admin::{AdminAnswer, AdminError, ClusterAdmin, JoinPermission, NewPermission, Standing};
pub use config::{InvalidRestConfig, RestConfig};
pub use service::RestService;
pub use state::RestState;
pub use view::{Asked, Caller, Connection, HubView};

/// The service API as an axum router. A request's [`holdfast_net::Peer`] is taken from its extensions.
pub fn router(state: RestState) -> Router {
    let shared = Arc::new(state::Shared::new(state));
    Router::new().fallback(move |request: Request<Body>| pipeline::answer(shared.clone(), request))
}
