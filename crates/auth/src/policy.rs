//! Shared access policies: a name, two keys, rights (Spec auth-and-limits §2).

use crate::{KeyPair, Rights};

/// A shared access policy of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Compared without regard to case.
    pub name: String,
    /// Its keys.
    pub keys: KeyPair,
    /// The rights of its tokens.
    pub rights: Rights,
}

/// The policies that every new hub has, with fresh keys.
pub const DEFAULT_POLICIES: [(&str, Rights); 5] = [
    ("iothubowner", Rights::ALL),
    ("service", Rights::SERVICE_CONNECT),
    ("device", Rights::DEVICE_CONNECT),
    ("registryRead", Rights::REGISTRY_READ),
    ("registryReadWrite", Rights::REGISTRY_WRITE),
];
