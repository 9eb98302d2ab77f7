//! The paths of certificates that this node has verified, so that a device that returns costs no signature.
//!
//! Why: the signature of its CA is half of what a connect with a certificate costs beyond the handshake, and a device over HTTPS
//! shows the same certificate with each connection.
//! Invariants: bounded; it holds only paths that lead to a CA of the hub, so that a stranger neither fills it nor displaces
//! others; dates, revocation and the registry are not part of it and are asked each time.

use std::collections::HashMap;
use std::hash::Hash;

use holdfast_auth::x509::{PathKey, PathMemory, PathShape};
use holdfast_tasks::sync::Mutex;
use metrics::{Counter, Gauge};

use crate::metrics::{certificate_paths, certificate_paths_known};

/// Paths of one generation, of which there are two: some 5 MiB in all.
const MAX_GENERATION: usize = 32_768;

/// See the module.
pub(crate) struct VerifiedPaths {
    generations: Mutex<Generations<PathKey, PathShape>>,
    known: Counter,
    verified: Counter,
    stored: Gauge,
}

/// When the new generation is full, it becomes the old one, and the old one is dropped: what was used lately stays.
struct Generations<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self {
            new: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Generations<K, V> {
    fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.new.get(key) {
            return Some(*value);
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value);
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.new.len() >= MAX_GENERATION {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }

    fn len(&self) -> usize {
        self.new.len() + self.old.len()
    }
}

impl VerifiedPaths {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            generations: Mutex::default(),
            known: certificate_paths("known"),
            verified: certificate_paths("verified"),
            stored: certificate_paths_known(),
        }
    }
}

impl PathMemory for VerifiedPaths {
    fn find(&self, key: &PathKey) -> Option<PathShape> {
        let path = self.generations.lock().get(key);
        if path.is_some() {
            self.known.increment(1);
        }
        path
    }

    fn store(&self, key: PathKey, path: PathShape) {
        let mut generations = self.generations.lock();
        generations.insert(key, path);
        let stored = generations.len();
        drop(generations);
        self.verified.increment(1);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.stored.set(stored as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut generations = Generations::default();
        for key in 0..5 * MAX_GENERATION {
            generations.insert(key, ());
            assert!(generations.get(&7).is_some() || key < 7, "{key}");
            assert!(generations.len() <= 2 * MAX_GENERATION);
        }
        assert_eq!(generations.get(&0), None);
        assert!(generations.get(&(5 * MAX_GENERATION - 1)).is_some());
    }
}
