//! The HTTPS service API: devices, modules, bulk, statistics, and our own additions (Spec rest).
//!
//! Why one handler for all paths: Azure matches fixed words in any case, decodes once, and checks api-version and
//! credentials before it says whether a path exists; a route table cannot express that order.
//! Order of checks (Spec rest §1.2): api-version, authentication, authorization, path, path ids, `If-Match`, body. A
//! caller without rights does not learn which resources exist.
//! Invariants: requests, bodies and waiting are bounded; every refusal and every write reaches the audit log; no log
//! line or error text contains a key.
//! Not here: listeners and TLS (`net`), the rules of a write (`registry`), twins, methods, jobs, queries (not
//! implemented; their paths answer 404013).
//! Start at [`RestService`], then `pipeline.rs`.

mod authorize;
mod body;
mod calls;
mod config;
mod document;
mod enrollments;
mod error;
mod etag;
mod json;
mod metrics;
mod openapi;
mod path;
mod pipeline;
mod route;
mod service;
mod state;
mod throttle;
mod timestamps;
mod twin_document;

pub use config::RestConfig;
pub use enrollments::{EnrollmentService, is_enrollment_path};
pub use metrics::METRICS;
pub use service::RestService;
