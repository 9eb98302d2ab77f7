//! This node's replica of the registry, for reading, and its caches in memory.
//!
//! Invariants: reads see everything that has been applied; the cache drops a changed entry after the change is on disk
//! and before the proposer is answered.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use holdfast_model::{DeviceId, IdentityId, NodeId, PartitionId, UnixMillis};
use holdfast_proto::registry::v1::{self as proto, IdentityRecord};
use holdfast_storage::{Disk, Family, StorageError, Visit};
use holdfast_tasks::sync::RwLock;
use holdfast_tasks::watch;
use prost::Message;

use crate::authorities::Authorities;
use crate::cache::IdentityCache;
use crate::change_feed::Feed;
use crate::cluster::{self, ClusterView, JoinToken, Placement};
use crate::config::RegistryConfig;
use crate::convert;
use crate::enrollment_groups::EnrollmentGroups;
use crate::error::RegistryError;
use crate::feature_level::{self, FeatureLevel};
use crate::identity::{Identity, TwinSeed};
use crate::issuance::Issuers;
use crate::linked_hub::LinkedHub;
use crate::metrics::Metrics;
use crate::provisioning::ProvisioningSettings;
use crate::revocations::{CaCrl, DeniedCertificate};
use crate::saved_query::SavedQueries;
use crate::secrets::Secrets;
use crate::settings::HubSettings;
use crate::state::{self, ApplyError, Base, layout};

/// Counts of identities, maintained with every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// All devices.
    pub devices: u64,
    /// Devices whose status is disabled.
    pub disabled_devices: u64,
    /// All modules.
    pub modules: u64,
}

impl From<proto::Counters> for Statistics {
    fn from(counters: proto::Counters) -> Self {
        Self {
            devices: counters.devices,
            disabled_devices: counters.disabled_devices,
            modules: counters.modules,
        }
    }
}

/// A page of the devices in id order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePage {
    /// The devices.
    pub devices: Vec<Identity>,
    /// Whether there are devices behind the last one.
    pub has_more: bool,
}

/// The replica.
pub(crate) struct Local {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) cache: IdentityCache,
    pub(crate) feed: Feed,
    pub(crate) secrets: Secrets,
    pub(crate) metrics: Metrics,
    settings: RwLock<Option<Arc<HubSettings>>>,
    cluster: RwLock<Arc<ClusterView>>,
    authorities: RwLock<Arc<Authorities>>,
    saved_queries: watch::Sender<Arc<SavedQueries>>,
    pub(crate) provisioning: RwLock<Option<Arc<ProvisioningSettings>>>,
    pub(crate) enrollment_groups: RwLock<Arc<EnrollmentGroups>>,
    /// Whether there may be individual enrollments. Most hubs enroll groups alone; each of their registrations looks for an individual one.
    may_have_enrollments: AtomicBool,
    pub(crate) linked_hubs: RwLock<Arc<Vec<Arc<LinkedHub>>>>,
    /// Changes with the registrations that have work to do.
    pub(crate) open_registrations: watch::Sender<()>,
    pub(crate) issuers: RwLock<Arc<Issuers>>,
}

impl Local {
    pub(crate) fn new(disk: Arc<dyn Disk>, secrets: Secrets, config: &RegistryConfig) -> Result<Self, RegistryError> {
        let local = Self {
            disk,
            cache: IdentityCache::new(config.identity_cache),
            feed: Feed::new(config.change_feed),
            secrets,
            metrics: Metrics::new(),
            settings: RwLock::new(None),
            cluster: RwLock::default(),
            authorities: RwLock::default(),
            saved_queries: watch::Sender::new(Arc::default()),
            provisioning: RwLock::new(None),
            enrollment_groups: RwLock::default(),
            may_have_enrollments: AtomicBool::new(true),
            linked_hubs: RwLock::default(),
            open_registrations: watch::Sender::new(()),
            issuers: RwLock::default(),
        };
        local.reload()?;
        Ok(local)
    }

    /// Reloads everything that is kept in memory from disk.
    pub(crate) fn reload(&self) -> Result<(), RegistryError> {
        self.cache.clear();
        *self.settings.write() = None;
        if let Some(record) = self.message::<proto::HubSettings>(layout::SETTINGS)? {
            // Before anything else is read: it may have a form that this version does not know.
            state::feature_level::check(record.feature_level)?;
            self.set_settings(convert::settings(&record, &self.secrets)?);
        }
        self.reload_cluster()?;
        self.reload_authorities()?;
        self.reload_saved_queries()?;
        self.reload_provisioning()?;
        self.reload_enrollment_groups()?;
        self.look_for_enrollments()?;
        self.reload_linked_hubs()?;
        self.reload_issuers()?;
        self.count(self.statistics()?);
        Ok(())
    }

    /// Reloads members and placements from disk.
    pub(crate) fn reload_cluster(&self) -> Result<(), ApplyError> {
        let cluster = match self.message::<proto::ClusterRecord>(layout::CLUSTER)? {
            None => ClusterView::default(),
            Some(record) => ClusterView {
                version: record.view_version,
                cluster: record.cluster,
                replication_factor: u8::try_from(record.replication_factor).unwrap_or(1),
                nodes: self
                    .records::<proto::NodeRecord>(&layout::nodes())?
                    .into_iter()
                    .map(|(_, record)| (NodeId(record.id), cluster::node_from_proto(record)))
                    .collect(),
                placements: self
                    .records::<proto::PlacementRecord>(&layout::placements())?
                    .into_iter()
                    .map(|(_, record)| Placement {
                        // Apply accepts no larger number.
                        partition: PartitionId(u16::try_from(record.partition).unwrap_or(u16::MAX)),
                        replicas: record.replicas.into_iter().map(NodeId).collect(),
                        founder: NodeId(record.founder),
                    })
                    .collect(),
            },
        };
        *self.cluster.write() = Arc::new(cluster);
        Ok(())
    }

    /// Reloads the saved queries from disk.
    pub(crate) fn reload_saved_queries(&self) -> Result<(), ApplyError> {
        let records = self.records::<proto::SavedQueryRecord>(&layout::saved_queries())?;
        let queries = records
            .into_iter()
            .map(|(_, record)| (record.name.to_ascii_lowercase(), Arc::new(record.into())));
        self.saved_queries.send_replace(Arc::new(queries.collect()));
        Ok(())
    }

    pub(crate) fn saved_queries(&self) -> Arc<SavedQueries> {
        self.saved_queries.borrow().clone()
    }

    pub(crate) fn watch_saved_queries(&self) -> watch::Receiver<Arc<SavedQueries>> {
        self.saved_queries.subscribe()
    }

    /// Reloads the CAs and what is revoked from disk. Certificates and lists that have not changed are not read again.
    pub(crate) fn reload_authorities(&self) -> Result<(), ApplyError> {
        let before = self.authorities();
        let cas = self.records::<proto::CaRecord>(&layout::cas())?;
        let denied = self.records::<proto::RevocationRecord>(&layout::revocations())?;
        let mut crls = Vec::new();
        for (_, record) in self.records::<proto::CrlRecord>(&layout::crls())? {
            let earlier = before.crl(&record.ca);
            crls.extend(CaCrl::read(record, earlier, |record| self.crl_serials(record))?);
        }
        let denied = denied
            .into_iter()
            .filter_map(|(_, record)| DeniedCertificate::read(record));
        let cas = cas.into_iter().map(|(_, record)| record);
        let authorities = Authorities::new(cas, denied.collect(), crls, &before);
        *self.authorities.write() = Arc::new(authorities);
        Ok(())
    }

    fn crl_serials(&self, record: &proto::CrlRecord) -> Result<Bytes, ApplyError> {
        let mut serials = Vec::new();
        for part in 0..record.parts {
            let part = self.message::<proto::CrlPart>(&layout::crl_part(&record.ca, part))?;
            serials.extend_from_slice(&part.unwrap_or_default().serials);
        }
        Ok(serials.into())
    }

    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        self.authorities.read().clone()
    }

    pub(crate) fn cluster(&self) -> Arc<ClusterView> {
        self.cluster.read().clone()
    }

    /// All join tokens, the newest first.
    pub(crate) fn join_tokens(&self) -> Result<Vec<JoinToken>, ApplyError> {
        let mut tokens: Vec<_> = self
            .records::<proto::JoinTokenRecord>(&layout::join_tokens())?
            .into_iter()
            .map(|(key, record)| {
                let hash = layout::parse_join_token(&key).unwrap_or_default();
                JoinToken {
                    id: cluster::token_id(hash),
                    role: cluster::role_from_proto(record.role()),
                    created: UnixMillis(record.created_ms),
                    expires: UnixMillis(record.expires_ms),
                    used_by: (record.used_by != 0).then_some(record.used_by),
                    revoked: (record.revoked_ms != 0).then_some(UnixMillis(record.revoked_ms)),
                }
            })
            .collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created));
        Ok(tokens)
    }

    /// The hashes of the secrets of the tokens with this id.
    pub(crate) fn join_token_hashes(&self, id: &str) -> Result<Vec<Vec<u8>>, ApplyError> {
        let tokens = self.records::<proto::JoinTokenRecord>(&layout::join_tokens())?;
        let hashes = tokens.iter().filter_map(|(key, _)| layout::parse_join_token(key));
        Ok(hashes
            .filter(|hash| cluster::token_id(hash) == id)
            .map(|hash| hash.to_vec())
            .collect())
    }

    /// The records of a range that the registry's limits keep short.
    pub(crate) fn records<M: Message + Default>(
        &self,
        range: &Range<Vec<u8>>,
    ) -> Result<Vec<(Vec<u8>, M)>, ApplyError> {
        let mut found = Vec::new();
        self.scan(&range.start, &range.end, &mut |key, value| {
            found.push((key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        found
            .into_iter()
            .map(|(key, value)| {
                let record = crate::state::decode(&key, value)?;
                Ok((key, record))
            })
            .collect()
    }

    /// Called before the record of `key` is written.
    pub(crate) fn will_write(&self, key: &[u8]) {
        if layout::is_enrollment(key) {
            self.may_have_enrollments.store(true, Ordering::Release);
        }
    }

    fn look_for_enrollments(&self) -> Result<(), ApplyError> {
        let Range { start, end } = layout::enrollments();
        let mut is_there = false;
        self.scan(&start, &end, &mut |_, _| {
            is_there = true;
            ControlFlow::Break(())
        })?;
        self.may_have_enrollments.store(is_there, Ordering::Release);
        Ok(())
    }

    pub(crate) fn settings(&self) -> Option<Arc<HubSettings>> {
        self.settings.read().clone()
    }

    pub(crate) fn set_settings(&self, settings: HubSettings) {
        self.metrics.feature_level.set(settings.feature_level.unwrap_or(0));
        *self.settings.write() = Some(Arc::new(settings));
    }

    /// Which commands may be written. Reads the disk where the hub has no level yet.
    pub(crate) fn feature_level(&self) -> Result<FeatureLevel, ApplyError> {
        Ok(match self.settings().and_then(|settings| settings.feature_level) {
            Some(level) => FeatureLevel { level, is_set: true },
            None => FeatureLevel {
                level: feature_level::of_records(self)?,
                is_set: false,
            },
        })
    }

    /// The identity, from the cache or from disk. May block on the disk for a moment.
    pub(crate) fn identity(&self, id: &IdentityId) -> Result<Option<Arc<Identity>>, RegistryError> {
        let epoch = match self.cache.get(id) {
            Ok(identity) => {
                self.metrics.cache_hits.increment(1);
                return Ok(Some(identity));
            }
            Err(epoch) => epoch,
        };
        self.metrics.cache_misses.increment(1);
        let Some(identity) = self.read(id)? else {
            return Ok(None);
        };
        let identity = Arc::new(identity);
        self.cache.put(identity.clone(), epoch);
        Ok(Some(identity))
    }

    fn read(&self, id: &IdentityId) -> Result<Option<Identity>, RegistryError> {
        let Some(record) = self.message::<IdentityRecord>(&layout::identity(id))? else {
            return Ok(None);
        };
        let device_disabled = match &id.module {
            None => false,
            Some(_) => match self.message::<IdentityRecord>(&layout::device(&id.device))? {
                Some(device) => device.disabled,
                None => return Ok(None),
            },
        };
        Ok(Some(convert::identity(id, &record, device_disabled, &self.secrets)?))
    }

    /// The first `top` devices in id order. Blocks on the disk.
    pub(crate) fn devices(&self, top: usize) -> Result<Vec<Identity>, RegistryError> {
        self.list(&layout::devices(), top, false, |key| {
            layout::parse_device(key).map(IdentityId::device)
        })
    }

    /// The first `top` devices after `after` in id order, or of all. Blocks on the disk.
    pub(crate) fn device_page(&self, after: Option<&DeviceId>, top: usize) -> Result<DevicePage, RegistryError> {
        let mut range = layout::devices();
        if let Some(after) = after {
            // The smallest key behind that of `after`.
            range.start = layout::device(after);
            range.start.push(0);
        }
        let mut devices = self.list(&range, top.saturating_add(1), false, |key| {
            layout::parse_device(key).map(IdentityId::device)
        })?;
        let has_more = devices.len() > top;
        devices.truncate(top);
        Ok(DevicePage { devices, has_more })
    }

    /// The modules of `device` in id order; `None` when there is no such device. Blocks on the disk.
    pub(crate) fn modules(&self, device: &DeviceId) -> Result<Option<Vec<Identity>>, RegistryError> {
        let Some(record) = self.message::<IdentityRecord>(&layout::device(device))? else {
            return Ok(None);
        };
        let range = layout::modules(device);
        let modules = self.list(&range, usize::MAX, record.disabled, |key| {
            layout::parse_module(key).map(|(device, module)| IdentityId::module(device, module))
        })?;
        Ok(Some(modules))
    }

    fn list(
        &self,
        range: &Range<Vec<u8>>,
        top: usize,
        device_disabled: bool,
        parse: impl Fn(&[u8]) -> Option<IdentityId>,
    ) -> Result<Vec<Identity>, RegistryError> {
        let mut found = Vec::new();
        let mut failed = None;
        self.scan(&range.start, &range.end, &mut |key, value| {
            if found.len() >= top {
                return ControlFlow::Break(());
            }
            let Some(id) = parse(key) else {
                return ControlFlow::Continue(());
            };
            let identity = crate::state::decode::<IdentityRecord>(key, Bytes::copy_from_slice(value))
                .map_err(RegistryError::from)
                .and_then(|record| Ok(convert::identity(&id, &record, device_disabled, &self.secrets)?));
            match identity {
                Ok(identity) => found.push(identity),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(found), Err)
    }

    pub(crate) fn statistics(&self) -> Result<Statistics, RegistryError> {
        let counters = self.message::<proto::Counters>(layout::COUNTERS)?.unwrap_or_default();
        Ok(counters.into())
    }

    pub(crate) fn newest_generation(&self) -> Result<u64, RegistryError> {
        let counters = self.message::<proto::Counters>(layout::COUNTERS)?.unwrap_or_default();
        Ok(counters.last_generation)
    }

    pub(crate) fn twin_seed(&self, id: &IdentityId) -> Result<Option<TwinSeed>, RegistryError> {
        let seed = self.message::<proto::TwinSeed>(&layout::twin_seed(id))?;
        Ok(seed.map(TwinSeed::from))
    }

    /// Sets the gauges.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn count(&self, statistics: Statistics) {
        self.metrics.devices.set(statistics.devices as f64);
        self.metrics.modules.set(statistics.modules as f64);
    }

    pub(crate) fn message<M: Message + Default>(&self, key: &[u8]) -> Result<Option<M>, ApplyError> {
        self.get(key)?.map(|bytes| crate::state::decode(key, bytes)).transpose()
    }
}

impl Base for Local {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if layout::is_enrollment(key) && !self.may_have_enrollments.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.disk.get(Family::Registry, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.disk.scan(Family::Registry, from, to, visit)
    }
}
