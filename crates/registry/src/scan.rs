//! Reads many identities of this node's replica one after the other, for queries.
//!
//! Why beside the lists: a query visits every identity, so that nothing is unsealed, and no list of them is made.
//! Invariants: identities come in the order of their keys: devices by id, modules by device and id; none twice; one that exists
//! during the whole scan is visited. No secret is read.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use holdfast_model::{DeviceId, ETag, GenerationId, IdentityId, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::convert;
use crate::error::RegistryError;
use crate::identity::{Status, Thumbprints, TwinSeed};
use crate::local::Local;
use crate::state::{Base as _, layout};

/// An identity without its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySummary {
    /// Its name.
    pub id: IdentityId,
    /// Of this life of the name.
    pub generation: GenerationId,
    /// New on every write.
    pub etag: ETag,
    /// A module's is its device's.
    pub status: Status,
    /// Devices only.
    pub status_reason: Option<String>,
    /// When the status changed last; `None` = never.
    pub status_updated: Option<UnixMillis>,
    /// `sas`, `selfSigned`, `certificateAuthority` or `none`.
    pub authentication_type: &'static str,
    /// With `selfSigned`.
    pub thumbprints: Option<Thumbprints>,
    /// Whether it is an edge device.
    pub iot_edge: bool,
    /// An edge device's own scope; another device's parent scope.
    pub device_scope: Option<String>,
    /// The scope of the edge device above it.
    pub parent_scope: Option<String>,
}

/// Which kind of identity is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityKind {
    /// Devices without their modules.
    Devices,
    /// Modules.
    Modules,
}

/// The devices that are visited, or whose modules are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRange {
    /// All.
    All,
    /// Those whose id begins so.
    Prefix(String),
    /// These, in the order of their ids.
    Ids(Vec<DeviceId>),
}

/// Where a scan begins and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The kind.
    pub kind: IdentityKind,
    /// The devices.
    pub range: DeviceRange,
    /// Only what lies after this identity.
    pub after: Option<IdentityId>,
    /// The scan ends when it has come past this many identities, wanted or not.
    pub most: usize,
}

/// How far a scan came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The last identity that was passed or visited; `None`: there are no more.
    pub through: Option<IdentityId>,
    /// How many were passed or visited.
    pub count: usize,
}

/// Which twin content that was given with creates is visited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedScan {
    /// Of devices or modules.
    pub kind: IdentityKind,
    /// Only of what lies after this identity.
    pub after: Option<IdentityId>,
    /// And not after this one.
    pub through: Option<IdentityId>,
    /// The scan ends when it has come past so many of the kind, wanted or not.
    pub most: usize,
}

impl Local {
    /// Calls `visit` for the twin content of each identity of the scan whose device `wants` accepts. Blocks on the disk.
    pub(crate) fn scan_twin_seeds(
        &self,
        scan: &SeedScan,
        mut wants: impl FnMut(&DeviceId) -> bool,
        mut visit: impl FnMut(IdentityId, TwinSeed),
    ) -> Result<Scanned, RegistryError> {
        let mut progress = Progress::default();
        let Range { mut start, mut end } = layout::twin_seeds();
        let behind = |id| [layout::twin_seed(id).as_slice(), &[0]].concat();
        if let Some(after) = &scan.after {
            start = start.max(behind(after));
        }
        if let Some(through) = &scan.through {
            end = end.min(behind(through));
        }
        if start < end {
            self.scan(&start, &end, &mut |key, value| {
                let Some(id) = layout::parse_twin_seed(key).filter(|id| scan.kind.has(id)) else {
                    return ControlFlow::Continue(());
                };
                progress.count += 1;
                if wants(&id.device) {
                    let seed = crate::state::decode::<proto::TwinSeed>(key, Bytes::copy_from_slice(value));
                    match seed {
                        Ok(seed) => visit(id.clone(), seed.into()),
                        Err(error) => {
                            progress.failed = Some(error.into());
                            return ControlFlow::Break(());
                        }
                    }
                }
                progress.through = Some(id);
                progress.is_stopped = progress.count >= scan.most;
                if progress.is_stopped {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        }
        progress.finish()
    }

    /// Calls `visit` for each identity of the scan whose device `wants` accepts, until it breaks. Blocks on the disk.
    pub(crate) fn scan_identities(
        &self,
        scan: &Scan,
        mut wants: impl FnMut(&DeviceId) -> bool,
        mut visit: impl FnMut(IdentitySummary) -> ControlFlow<()>,
    ) -> Result<Scanned, RegistryError> {
        let mut progress = Progress::default();
        let mut disabled = DeviceStatus::default();
        for mut range in ranges(scan) {
            if let Some(after) = &scan.after {
                // The smallest key behind that of `after`.
                let mut start = layout::identity(after);
                start.push(0);
                range.start = range.start.max(start);
            }
            if range.start >= range.end {
                continue;
            }
            self.scan(&range.start.clone(), &range.end, &mut |key, value| {
                let Some(id) = parse(scan.kind, key) else {
                    return ControlFlow::Continue(());
                };
                progress.count += 1;
                let visited = if wants(&id.device) {
                    let value = Bytes::copy_from_slice(value);
                    match self.summary(&id, key, value, &mut disabled) {
                        Ok(summary) => visit(summary),
                        Err(error) => {
                            progress.failed = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                } else {
                    ControlFlow::Continue(())
                };
                progress.through = Some(id);
                progress.is_stopped = visited.is_break() || progress.count >= scan.most;
                if progress.is_stopped {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            if progress.is_stopped {
                break;
            }
        }
        progress.finish()
    }

    fn summary(
        &self,
        id: &IdentityId,
        key: &[u8],
        value: Bytes,
        disabled: &mut DeviceStatus,
    ) -> Result<IdentitySummary, RegistryError> {
        let record = crate::state::decode::<proto::IdentityRecord>(key, value)?;
        let is_disabled = match id.module {
            None => record.disabled,
            Some(_) => disabled.of(self, &id.device)?,
        };
        Ok(convert::summary(id, record, is_disabled))
    }
}

#[derive(Default)]
struct Progress {
    count: usize,
    through: Option<IdentityId>,
    failed: Option<RegistryError>,
    is_stopped: bool,
}

impl Progress {
    fn finish(self) -> Result<Scanned, RegistryError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(Scanned {
                through: self.through.filter(|_| self.is_stopped),
                count: self.count,
            }),
        }
    }
}

impl IdentityKind {
    fn has(self, id: &IdentityId) -> bool {
        (self == Self::Modules) == id.module.is_some()
    }
}

/// The status of the device whose modules are visited, read once for all of them.
#[derive(Default)]
struct DeviceStatus(Option<(DeviceId, bool)>);

impl DeviceStatus {
    fn of(&mut self, local: &Local, device: &DeviceId) -> Result<bool, RegistryError> {
        if let Some((known, is_disabled)) = &self.0
            && known == device
        {
            return Ok(*is_disabled);
        }
        let record = local.message::<proto::IdentityRecord>(&layout::device(device))?;
        let is_disabled = record.is_some_and(|record| record.disabled);
        self.0 = Some((device.clone(), is_disabled));
        Ok(is_disabled)
    }
}

fn parse(kind: IdentityKind, key: &[u8]) -> Option<IdentityId> {
    match kind {
        IdentityKind::Devices => layout::parse_device(key).map(IdentityId::device),
        IdentityKind::Modules => layout::parse_module(key).map(|(device, module)| IdentityId::module(device, module)),
    }
}

fn ranges(scan: &Scan) -> Vec<Range<Vec<u8>>> {
    let all = match scan.kind {
        IdentityKind::Devices => layout::devices(),
        IdentityKind::Modules => layout::all_modules(),
    };
    match (&scan.range, scan.kind) {
        (DeviceRange::All, _) => vec![all],
        (DeviceRange::Prefix(prefix), _) => {
            let mut start = all.start;
            start.extend_from_slice(prefix.as_bytes());
            // No key has this byte: ids are ASCII.
            let end = [start.as_slice(), &[0xff]].concat();
            vec![start..end]
        }
        (DeviceRange::Ids(ids), IdentityKind::Devices) => {
            let one = |id| {
                let start = layout::device(id);
                let end = [start.as_slice(), &[0]].concat();
                start..end
            };
            ids.iter().map(one).collect()
        }
        (DeviceRange::Ids(ids), IdentityKind::Modules) => ids.iter().map(layout::modules).collect(),
    }
}
