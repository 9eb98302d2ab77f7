//! What a reign knows of the marks in the partition's log that say which gateways are away (docs/decisions/0026).
//!
//! A mark is there before a session begins that the gateway does not know of. What the reign itself lets begin meanwhile it
//! remembers one by one ([`super::ended`]); what reigns before it have let begin it cannot know: of a gateway that has
//! been away since, every session may have had a successor, and is over.
//! Pure: `absence` reads and writes the log.

use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Gateways that have been away since before this reign; `None` until that has been read.
    inherited: Option<BTreeSet<u64>>,
    /// Gateways that are away, as the log says; the inherited ones among them.
    marked: BTreeSet<u64>,
    /// Gateways that are back, while the log says that they are away.
    back: BTreeSet<u64>,
}

impl Marks {
    /// What the log said when the reign began.
    pub(crate) fn learn(&mut self, away: &[u64]) {
        if self.inherited.is_none() {
            self.marked.extend(away);
            self.inherited = Some(away.iter().copied().collect());
        }
    }

    pub(crate) fn are_known(&self) -> bool {
        self.inherited.is_some()
    }

    /// Whether every session that the gateway hands in is over.
    pub(super) fn is_inherited(&self, gateway: u64) -> bool {
        self.inherited.as_ref().is_some_and(|away| away.contains(&gateway))
    }

    /// Whether sessions may begin that the gateway does not know of.
    pub(crate) fn is_marked(&self, gateway: u64) -> bool {
        self.marked.contains(&gateway)
    }

    /// The log says that it is away.
    pub(super) fn mark(&mut self, gateway: u64) {
        self.back.remove(&gateway);
        self.marked.insert(gateway);
    }

    /// All its sessions are known here. Before anything begins again without it, it has to be marked again.
    pub(super) fn is_back(&mut self, gateway: u64) {
        if let Some(inherited) = &mut self.inherited {
            inherited.remove(&gateway);
        }
        if self.marked.remove(&gateway) {
            self.back.insert(gateway);
        }
    }

    /// Those whose marks are to be taken out of the log.
    pub(crate) fn back(&self) -> Vec<u64> {
        self.back.iter().copied().collect()
    }

    /// The log says that it is not away.
    pub(crate) fn clear(&mut self, gateway: u64) {
        self.back.remove(&gateway);
    }
}
