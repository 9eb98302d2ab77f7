//! Generated protobuf messages of everything that is stored or exchanged between nodes.
//!
//! Why: stored bytes outlive code (docs/storage.md), so their form is declared once, in `proto/`, and fields are only
//! ever added. Every change has a line in `proto/CHANGES.md`.
//! Not here: logic, and the hand-written encoders of the hot path (`partition::record`), which write the same form.

/// The Raft log, votes and memberships as stored.
pub mod consensus {
    #[allow(missing_docs, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.consensus.v1.rs"));
    }
}

/// Commands and state of the registry group.
pub mod registry {
    #[allow(missing_docs, clippy::large_enum_variant, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.registry.v1.rs"));
    }
}

/// Entries and state of a partition group.
pub mod partition {
    #[allow(missing_docs, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.partition.v1.rs"));
    }
}

/// Values of device state.
pub mod device {
    #[allow(missing_docs, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.device.v1.rs"));
    }
}

/// The index of the embedded blob endpoint.
pub mod blob {
    #[allow(missing_docs, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.blob.v1.rs"));
    }
}

/// The messages between nodes.
pub mod cluster {
    #[allow(missing_docs, clippy::large_enum_variant, reason = "generated")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.cluster.v1.rs"));
    }
}
