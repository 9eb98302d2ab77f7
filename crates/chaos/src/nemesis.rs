//! Fault injection: the kinds of faults, a schedule of them drawn from a seed, and how each is injected and healed.

mod disks;
mod injection;
mod links;
mod members;
mod processes;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::Serialize;

pub use injection::{Nemesis, Survived};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL of any node.
    Kill,
    /// SIGKILL of the node that leads most partitions.
    KillLeader,
    /// SIGKILL of two nodes, the second when the first is back.
    KillInTurn,
    /// A node loses all unsynced data.
    PowerCut,
    /// All nodes lose all unsynced data at once.
    PowerCutAll,
    /// SIGSTOP of any node for seconds.
    Pause,
    /// SIGSTOP of the node that leads most partitions.
    PauseLeader,
    /// A node is cut off from the others; clients reach it.
    Isolate,
    /// A node is cut off from the others and from clients.
    IsolateFully,
    /// A node receives packets, and its own are dropped.
    Mute,
    /// A node sends packets, and receives none.
    Deaf,
    /// Two nodes do not reach each other; both reach the rest.
    Split,
    /// Packets between nodes are lost.
    Loss,
    /// Packets between nodes are slow.
    Delay,
    /// A node's wall clock jumps.
    ClockJump,
    /// A node's syncs are slow.
    SlowSync,
    /// A node's disk is nearly full: it refuses writes.
    DiskFull,
    /// A node's disk is full: it stops.
    NoRoom,
    /// A node's sync fails: it stops.
    SyncFails,
    /// A bit flips in a node's log: it does not start again, and is replaced.
    FlipLog,
    /// A bit flips in a node's table files: the node stops when it reads it, and is replaced.
    FlipTable,
    /// SIGTERM and start.
    Restart,
    /// The same, node after node.
    RollingRestart,
    /// A node joins while a leader is killed; then it is drained and removed.
    MembershipInCrash,
    /// Not survivable: syncs of all disks have no effect, then the power is cut, so acknowledged messages are lost. Proves
    /// that the checker finds this; never drawn, only by request.
    LyingDisks,
}

/// The requirement of a kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Several nodes.
    Cluster,
    /// Several nodes in namespaces.
    Links,
    /// A disk with a size of its own.
    SmallDisk,
    /// Several nodes and a spare one.
    Spare,
}

impl Kind {
    /// All kinds that must be survived.
    pub const ALL: [Self; 24] = [
        Self::Kill,
        Self::KillLeader,
        Self::KillInTurn,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::Pause,
        Self::PauseLeader,
        Self::Isolate,
        Self::IsolateFully,
        Self::Mute,
        Self::Deaf,
        Self::Split,
        Self::Loss,
        Self::Delay,
        Self::ClockJump,
        Self::SlowSync,
        Self::DiskFull,
        Self::NoRoom,
        Self::SyncFails,
        Self::FlipLog,
        Self::FlipTable,
        Self::Restart,
        Self::RollingRestart,
        Self::MembershipInCrash,
    ];

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .chain([Self::LyingDisks])
            .find(|kind| kind.name() == name)
    }

    /// The name in reports and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    }

    fn need(self) -> Need {
        match self {
            Self::KillInTurn | Self::RollingRestart | Self::PauseLeader | Self::KillLeader => Need::Cluster,
            Self::Isolate | Self::IsolateFully | Self::Mute | Self::Deaf | Self::Split | Self::Loss | Self::Delay => {
                Need::Links
            }
            Self::DiskFull => Need::SmallDisk,
            Self::MembershipInCrash => Need::Spare,
            _ => Need::Nothing,
        }
    }

    /// The relative frequency; kinds that take long are rarer.
    fn weight(self) -> u32 {
        match self {
            Self::KillLeader => 6,
            Self::Kill | Self::PowerCut | Self::Restart | Self::Isolate | Self::Pause | Self::PauseLeader => 4,
            Self::FlipLog | Self::FlipTable | Self::MembershipInCrash | Self::RollingRestart => 1,
            _ => 2,
        }
    }
}

/// The capabilities of a run.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// More than one node.
    pub cluster: bool,
    /// Why links cannot be broken.
    pub without_links: Option<String>,
    /// Whether there is a small disk.
    pub small_disk: bool,
    /// Whether there is a spare node.
    pub spare: bool,
}

impl Capabilities {
    /// Why faults of `kind` cannot be injected.
    #[must_use]
    pub fn lacks(&self, kind: Kind) -> Option<String> {
        let several = || (!self.cluster).then(|| "needs several nodes".to_owned());
        match kind.need() {
            Need::Nothing => None,
            Need::Cluster => several(),
            Need::Links => several().or_else(|| {
                self.without_links
                    .as_ref()
                    .map(|why| format!("needs network namespaces: {why}"))
            }),
            Need::SmallDisk => (!self.small_disk).then(|| "needs the right to mount a small disk".to_owned()),
            Need::Spare => several().or_else(|| (!self.spare).then(|| "needs a spare node (--spares)".to_owned())),
        }
    }
}

/// `count` faults of `kinds` in random order, each kind at least once if `count` allows.
#[must_use]
pub fn fault_schedule(kinds: &[Kind], count: usize, rng: &mut StdRng) -> Vec<Kind> {
    let mut once = kinds.to_vec();
    once.shuffle(rng);
    once.truncate(count);
    let total: u32 = kinds.iter().map(|kind| kind.weight()).sum();
    while once.len() < count && total > 0 {
        let mut drawn = rng.random_range(0..total);
        for kind in kinds {
            match drawn.checked_sub(kind.weight()) {
                Some(rest) => drawn = rest,
                None => {
                    once.push(*kind);
                    break;
                }
            }
        }
    }
    once.shuffle(rng);
    once
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_schedule_holds_every_kind_and_is_the_same_for_the_same_seed() {
        let draw = |seed| fault_schedule(&Kind::ALL, 60, &mut StdRng::seed_from_u64(seed));
        let drawn = draw(7);
        assert_eq!(drawn.len(), 60);
        assert!(Kind::ALL.iter().all(|kind| drawn.contains(kind)));
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
        assert_eq!(fault_schedule(&[], 5, &mut StdRng::seed_from_u64(1)), []);
    }

    #[test]
    fn names_are_those_of_the_command_line_and_missing_capabilities_are_named() {
        assert_eq!(Kind::PowerCutAll.name(), "power-cut-all");
        let alone = Capabilities::default();
        assert!(alone.lacks(Kind::Isolate).is_some_and(|why| why.contains("several")));
        assert_eq!(alone.lacks(Kind::Kill), None);
        let bare = Capabilities {
            cluster: true,
            without_links: Some("no ip".into()),
            ..Capabilities::default()
        };
        assert!(bare.lacks(Kind::Loss).is_some_and(|why| why.contains("no ip")));
    }
}
