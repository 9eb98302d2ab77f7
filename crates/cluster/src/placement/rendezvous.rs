//! Rendezvous hashing: each pair of a key and a node has a score, and a key prefers the nodes with the highest scores.
//!
//! Why: a node that joins or leaves does not change the scores of others, so that every leader breaks ties in the same way.

use holdfast_model::NodeId;
use xxhash_rust::xxh64::xxh64;

/// The key of the registry, larger than that of all partitions.
pub(super) const REGISTRY: u32 = u32::MAX;

/// The score of `node` for `key`.
pub(super) fn score(key: u32, node: NodeId) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&key.to_le_bytes());
    bytes[4..].copy_from_slice(&node.get().to_le_bytes());
    xxh64(&bytes, 0)
}
