//! Rendezvous hashing: each pair of a thing and a node has a score, and the thing prefers the nodes that score highest.
//!
//! Why: who comes or goes changes nobody else's scores, so ties are decided the same way by every leader, and spread.

use xxhash_rust::xxh64::xxh64;

/// What stands for the registry, beyond all partitions.
pub(super) const REGISTRY: u32 = u32::MAX;

/// How much `thing` likes to be on `node`.
pub(super) fn score(thing: u32, node: u64) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&thing.to_le_bytes());
    bytes[4..].copy_from_slice(&node.to_le_bytes());
    xxh64(&bytes, 0)
}
