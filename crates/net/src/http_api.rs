//! The rules of HTTP that device-side calls and the service API share (Spec rest §1): paths, bodies, answers, errors.
//!
//! Why here: both front ends are on one port and the SDKs expect the same of both, and neither may use the other.
//! Invariants: a path is decoded once; a body is bounded in bytes, in time and over all requests together; an error body has the
//! fields that every SDK reads.
//! Not here: which paths exist, credentials, the meaning of bodies (`gateway`, `service-api`).

mod body;
mod error;
mod path;
mod reply;

pub use body::{BodyError, RequestBody};
pub use error::{ErrorReply, RETRY_AFTER};
pub use path::{check_version, query, segments};
pub use reply::Reply;
