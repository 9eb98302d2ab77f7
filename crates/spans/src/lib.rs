//! Spans: what the hub did for a client, where, and how long each part took, over all nodes that had a part in it.
//!
//! Why a crate: gateways, owners and front ends make spans of one trace, and one table says which spans there are.
//! Invariants: a span that is not recorded costs a branch and allocates nothing; recording never waits: what the queue cannot take
//! is dropped and counted; nothing of a credential and no payload is in a span.
//! Not here: where spans begin and end (the crates that do the work), how a context travels between nodes (their messages), logs,
//! the live traces of one device (`device-hub`).
//! Start at [`Tracer`]; [`SpanName`] is the table.
#![warn(missing_docs)]

mod config;
mod context;
mod encode;
mod export;
mod metrics;
mod table;
mod tracer;

pub use config::TracingConfig;
pub use context::{CONTEXT_PROPERTIES, TraceContext};
pub use export::{ExportError, Exporter, Resource};
pub use metrics::METRICS;
pub use table::{Attribute, SpanName};
pub use tracer::{FinishedSpan, Recorded, Span, Tracer, Value};
