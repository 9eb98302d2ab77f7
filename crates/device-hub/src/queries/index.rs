//! Indexes of tags and properties (docs/decisions/0038; `twins.indexes`).
//!
//! Why: a scan of a million twins takes seconds. A part of the condition that an index answers leaves some identities
//! ([`candidates`]), on which the whole condition is evaluated as in a scan.
//! Invariants: each identity that the query selects is a candidate. A condition is answered by an index only if it is false or
//! undefined for a value that the index does not have: arrays, objects, and what is not there.
//! Not here: storing the entries (`partition::state::value_index`), which parts of a condition all results satisfy
//! ([`holdfast_query::Lookup`]).

mod candidates;
mod choice;
mod declared;
mod encode;
mod explain;
mod indexer;
#[cfg(test)]
mod tests;

pub(super) use candidates::Candidates;
pub(super) use choice::IndexChoice;
pub(crate) use declared::TwinIndexes;
pub(crate) use declared::problem;
pub use explain::{IndexPlan, QueryExplanation};
pub use indexer::twin_indexing;
