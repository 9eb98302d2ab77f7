//! Queries over devices and modules (docs/query.md, docs/decisions/0037).
//!
//! Why here: identities are on every node, connections and twins at the owners of partitions. Each owner evaluates the query
//! over the identities of its partitions ([`serve`]), and the node that was asked merges what they find ([`gather`]).
//! Invariants: results come in the order of ids, so that a place in them is an identity, whatever node owns it later; no node
//! holds more than a page of results; an identity that exists during the whole query is visited once.
//! Not here: the language (`query`), headers and tokens (`service-api`).

mod confirm;
mod gather;
mod index;
mod plan;
mod row;
mod saved;
mod serve;

pub use gather::{QueryFailure, QueryPage, QueryPosition};
pub use index::{IndexPlan, QueryExplanation, twin_indexing};
pub(crate) use index::{TwinIndexes, problem};
pub use plan::{QueryAccess, QueryPlan};
pub(crate) use saved::SavedQueryCounts;
pub use saved::{SavedQueryCount, count_saved_queries, match_count};
pub(crate) use serve::{MAX_SLICES, SliceError};
