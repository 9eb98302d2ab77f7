//! A hub in this process, to be backed up.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_backup::{
    BackupError, CreateOptions, Exported, HubFacts, HubSource, Manifest, Progress, Target, create, verify,
};
use holdfast_consensus::{ConsensusConfig, GroupHost, GroupId, LogScope};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, ByteSize, Clock, DeviceId, GenerationId, HumanDuration, IdentityId, Incarnation,
    NodeId, PartitionCount, PartitionId, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_partition::{Partition, PartitionConfig};
use holdfast_registry::{Founding, Registry, RegistryConfig};
use holdfast_storage::{DataDir, Kek, NodeIdentity, Sealer, StorageConfig};

const NODE: NodeId = NodeId(1);
pub(crate) const MIB: u64 = 1 << 20;

/// A registry and four partitions on disk.
pub(crate) struct Hub {
    pub(crate) registry: Registry,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) clock: Arc<AtomicU64>,
    batch: u64,
}

impl Hub {
    pub(crate) async fn start(dir: &Path) -> Self {
        let identity = || NodeIdentity {
            cluster: "one".to_owned(),
            incarnation: NODE.get(),
        };
        let storage = StorageConfig::default();
        let disk = holdfast_storage::open(&DataDir::open(dir, identity).unwrap(), &storage).unwrap();
        let host: GroupHost = holdfast_testkit::on_threads(NODE, disk, Arc::new(|_| {}), &storage);
        let clock = Arc::new(AtomicU64::new(1_000));
        let now = Arc::clone(&clock);
        let of_hub = Clock::from_fn(move || UnixMillis(now.load(Ordering::Relaxed)));
        let consensus = ConsensusConfig::default();
        let founding = Founding {
            partition_count: PartitionCount::new(4).unwrap(),
            ..Founding::default()
        };
        let sealer = Arc::new(Sealer::generate(&Kek::new([7; 32])).unwrap());
        let config = RegistryConfig::default();
        let registry = Registry::start(&host, &consensus, sealer, &founding, of_hub.clone(), &config, true);
        let registry = registry.await.unwrap();
        let config = PartitionConfig {
            retention: HumanDuration::secs(1),
            retention_interval: HumanDuration::secs(3600),
            reclaim_step: ByteSize(0),
            ..PartitionConfig::default()
        };
        let mut partitions = Vec::new();
        for id in (0..4).map(PartitionId) {
            let partition = Partition::start(id, &host, &consensus, &config, of_hub.clone(), true);
            partitions.push(partition.await.unwrap());
        }
        Self {
            registry,
            partitions,
            clock,
            batch: 0,
        }
    }

    /// Ten messages of 200 KiB in one entry of partition 0.
    pub(crate) async fn append(&mut self, time: u64) {
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let generation = GenerationId("1".into());
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth: AuthMethod {
                scope: AuthScope::Device,
                kind: AuthType::Sas,
            },
            model_id: None,
        };
        let mut writer = BatchWriter::new();
        for message in 0..10_u64 {
            let mut body = vec![7; 200 << 10];
            body[..8].copy_from_slice(&(self.batch << 32 | message).to_be_bytes());
            let message = TelemetryMessage {
                payload: &body,
                ..TelemetryMessage::default()
            };
            writer.push(&origin, &message, UnixMillis(time)).unwrap();
        }
        self.batch += 1;
        let stream = StreamId {
            gateway_node: NODE,
            incarnation: Incarnation(1),
            core: 0,
        };
        let entry: Bytes = writer.close(BatchHeader {
            stream,
            batch_number: self.batch,
            enqueued: UnixMillis(time),
        });
        self.partitions[0].append(entry).await.unwrap();
    }

    pub(crate) fn facts(&self, cluster: &str) -> HubFacts {
        let settings = self.registry.settings().unwrap();
        HubFacts {
            version: 1,
            hub: settings.hub_name.clone(),
            hub_id: settings.hub_id.clone(),
            cluster: cluster.to_owned(),
            partitions: settings.partition_count.get(),
            wrapped_key: "00".to_owned(),
            program: "test".to_owned(),
        }
    }

    /// Makes a backup with the log.
    pub(crate) async fn create(
        &self,
        target: &dyn Target,
        cluster: &str,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Manifest, BackupError> {
        let options = CreateOptions {
            with_log: true,
            full: false,
            clock: || Clock::system().now(),
        };
        create(self, &self.facts(cluster), target, options, progress).await
    }

    /// The same, with which nothing is wrong.
    pub(crate) async fn backup(&self, target: &dyn Target, cluster: &str) -> (Manifest, Progress) {
        let mut last = Progress::default();
        let manifest = self.create(target, cluster, &mut |now| last = now).await.unwrap();
        verify(target, &manifest, &mut |_| ()).await.unwrap();
        (manifest, last)
    }
}

impl HubSource for Hub {
    async fn export(&self, group: GroupId, log: LogScope) -> Result<Exported, BackupError> {
        let group = match group.0.checked_sub(1) {
            None => self.registry.group(),
            Some(partition) => self.partitions[partition as usize].group(),
        };
        let chunks = group.export(log);
        Ok(Box::pin(chunks.map(|chunk| chunk.map_err(|error| error.to_string()))))
    }
}
