//! Making a backup of a hub that runs.
//!
//! Order: the partitions, each of one moment after the begin; the registry last. So every identity of a state is in the registry or
//! has been deleted since, as after a restart; and what was acknowledged before the begin is in the backup.
//! Invariants: the manifest is written when everything that it names is durable; a backup that was interrupted continues with
//! the parts that are complete; of the log, stretches that an earlier backup of the same cluster has are named, not read again.
//! Objects are stored while the next are read (`storing`); one is named when it is durable and all before it are.
//! Not here: how the hub is reached ([`HubSource`]), the folder (`target`).

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use holdfast_consensus::{Export, ExportDecoder, ExportError, GroupId, LogPosition, LogScope};
use holdfast_model::{PartitionCount, PartitionId, UnixMillis};
use holdfast_partition::PartitionConfig;
use holdfast_partition::backup::{Part, check_entry, decode_part};
use holdfast_registry::backup::{RecordReader, check_record};
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::manifest::{
    self, FORMAT, Manifest, ObjectRef, PartitionPart, Position, REPOSITORY, RegistryPart, Repository, Segment,
    UNFINISHED, file_of,
};
use crate::object::{self, Kind, ObjectWriter, SEGMENT_BYTES};
use crate::partition_run::{Names, PartitionRun};
use crate::point::{self, RegistryPoint};
use crate::storing::{Place, Stored, Storing, has};
use crate::target::Target;

/// An interrupted backup that began longer ago is not continued: it would be as old as its begin.
const MAX_UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);
/// Longer than the file that says whose backups a folder holds.
const MAX_REPOSITORY_BYTES: u64 = 1 << 16;
/// After so many segments what is complete is kept: a backup that is killed reads at most these again.
const SEGMENTS_PER_SAVE: usize = 4;

/// What a hub says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubFacts {
    /// The version of the export; 1.
    pub version: u32,
    /// The hub's name.
    pub hub: String,
    /// The hub's id.
    pub hub_id: String,
    /// The cluster's id.
    pub cluster: String,
    /// The number of partitions.
    pub partitions: u16,
    /// The hub's data key as the key-encryption key has wrapped it, in hexadecimal digits.
    pub wrapped_key: String,
    /// The version of Holdfast that answers.
    pub program: String,
}

/// The chunks of an export, for an [`ExportDecoder`]; an error says why there are no more.
pub type Exported = BoxStream<'static, Result<Bytes, String>>;

/// A hub that can be read.
pub trait HubSource {
    /// The state of a group, with everything that was committed before the call.
    fn export(&self, group: GroupId, log: LogScope) -> impl Future<Output = Result<Exported, BackupError>> + Send;
}

/// How a backup is made.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// With the events.
    pub with_log: bool,
    /// Read and write everything anew.
    pub full: bool,
    /// The time.
    pub clock: fn() -> UnixMillis,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Groups that are complete: partitions and the registry.
    pub groups_done: u32,
    /// All groups.
    pub groups: u32,
    /// Bytes read from the hub.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Bytes of objects that were there before.
    pub reused: u64,
}

/// Makes a backup of the hub `facts` in `target`, or continues one that was interrupted. `progress` is called after every
/// object.
///
/// # Errors
/// [`BackupError`]; what has been written stays, and the next call continues there.
pub async fn create(
    source: &impl HubSource,
    facts: &HubFacts,
    target: &dyn Target,
    options: CreateOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Manifest, BackupError> {
    if facts.version != 1 {
        let text = format!(
            "the hub gives exports of version {}, and this program reads version 1",
            facts.version
        );
        return Err(BackupError::Hub(text));
    }
    let count = PartitionCount::new(facts.partitions)
        .ok_or_else(|| BackupError::Hub("its number of partitions is none".to_owned()))?;
    claim(target, facts).await?;
    let now = (options.clock)();
    let before = previous(target, facts, options).await?;
    let (manifest, continued) = begin(target, facts, options, now).await?;
    let mut run = Run::new(source, target, options.full, manifest, progress);
    run.before = before;
    run.progress.groups = u32::from(count.get()) + 1;
    if let Some(begun) = continued {
        tracing::info!(begun, "continuing the backup that was interrupted");
    }
    run.progress.groups_done = u32::try_from(run.manifest.partition.len()).unwrap_or(u32::MAX);
    for partition in count.iter().skip(run.manifest.partition.len()) {
        let part = run.partition(partition).await?;
        run.manifest.partition.push(part);
        run.manifest.under_way = None;
        run.save().await?;
        run.group_done();
    }
    run.manifest.registry = Some(run.registry().await?);
    run.group_done();
    let mut manifest = run.manifest;
    manifest.ended_ms = (options.clock)().0.max(1);
    target.put(&file_of(&manifest.id), manifest.encode()).await?;
    target.delete(UNFINISHED).await?;
    Ok(manifest)
}

/// Keeps the registry as it is now, for a restore at a time until the next backup. The folder has a backup of this cluster.
///
/// # Errors
/// [`BackupError`]; nothing is there then but objects that no one names, which the next call uses.
pub async fn create_point(
    source: &impl HubSource,
    facts: &HubFacts,
    target: &dyn Target,
    clock: fn() -> UnixMillis,
) -> Result<RegistryPoint, BackupError> {
    claim(target, facts).await?;
    let begun = clock();
    let options = CreateOptions {
        with_log: false,
        full: false,
        clock,
    };
    let manifest = new_manifest(facts, options, begun, String::new());
    let mut report = |_| ();
    let mut run = Run::new(source, target, options.full, manifest, &mut report);
    let registry = run.registry().await?;
    let point = RegistryPoint {
        format: FORMAT,
        id: free_id(target, begun, point::file_of).await?,
        hub_id: facts.hub_id.clone(),
        cluster: facts.cluster.clone(),
        begun_ms: begun.0,
        ended_ms: clock().0,
        wrapped_key: facts.wrapped_key.clone(),
        registry,
        checksum: String::new(),
    };
    target.put(&point::file_of(&point.id), point.encode()).await?;
    Ok(point)
}

/// Refuses a folder that holds backups of another hub, or something else; makes an empty one this hub's.
async fn claim(target: &dyn Target, facts: &HubFacts) -> Result<(), BackupError> {
    if let Some(content) = target.get(REPOSITORY, MAX_REPOSITORY_BYTES).await? {
        let repository = Repository::decode(&content)?;
        if repository.hub_id != facts.hub_id {
            let text = format!(
                "the folder holds backups of another hub ({} with id {}; this one is {} with id {}): use a folder of its own",
                repository.hub, repository.hub_id, facts.hub, facts.hub_id
            );
            return Err(BackupError::NotOurs(text));
        }
        return Ok(());
    }
    let ours = ["backup.lock", "unfinished"];
    if let Some(other) = target
        .list("")
        .await?
        .iter()
        .find(|name| !ours.contains(&name.as_str()))
    {
        let text = format!("the folder is not empty (it has {other:?}) and holds no backups: use an empty one");
        return Err(BackupError::NotOurs(text));
    }
    let repository = Repository {
        format: FORMAT,
        hub: facts.hub.clone(),
        hub_id: facts.hub_id.clone(),
    };
    Ok(target.put(REPOSITORY, repository.encode()).await?)
}

/// The newest earlier backup whose log may be named.
async fn previous(
    target: &dyn Target,
    facts: &HubFacts,
    options: CreateOptions,
) -> Result<Option<Manifest>, BackupError> {
    if options.full || !options.with_log {
        return Ok(None);
    }
    let backups = manifest::list(target).await?;
    let usable = backups.into_iter().rev().filter_map(|(_, manifest)| manifest.ok());
    // Of another cluster, entries of the same index differ.
    Ok(usable
        .into_iter()
        .find(|manifest| manifest.with_log && manifest.cluster == facts.cluster))
}

/// The manifest to be filled, and the id of an interrupted backup that it continues.
async fn begin(
    target: &dyn Target,
    facts: &HubFacts,
    options: CreateOptions,
    now: UnixMillis,
) -> Result<(Manifest, Option<String>), BackupError> {
    let new = new_manifest(facts, options, now, free_id(target, now, file_of).await?);
    let Some(old) = manifest::unfinished(target).await?.filter(|_| !options.full) else {
        return Ok((new, None));
    };
    let age = Duration::from_millis(now.0.saturating_sub(old.begun_ms));
    let is_same = old.cluster == new.cluster && old.partitions == new.partitions && old.with_log == new.with_log;
    // Objects that have gone since are written again.
    let mut is_whole = true;
    for object in old.objects() {
        is_whole &= has(target, object).await?;
    }
    if !is_same || !is_whole || age > MAX_UNFINISHED_AGE {
        return Ok((new, None));
    }
    let id = old.id.clone();
    let continued = Manifest {
        wrapped_key: new.wrapped_key,
        program: new.program,
        ..old
    };
    Ok((continued, Some(id)))
}

fn new_manifest(facts: &HubFacts, options: CreateOptions, now: UnixMillis, id: String) -> Manifest {
    Manifest {
        format: FORMAT,
        id,
        hub: facts.hub.clone(),
        hub_id: facts.hub_id.clone(),
        cluster: facts.cluster.clone(),
        program: facts.program.clone(),
        partitions: facts.partitions,
        begun_ms: now.0,
        ended_ms: 0,
        with_log: options.with_log,
        wrapped_key: facts.wrapped_key.clone(),
        registry: None,
        partition: Vec::new(),
        under_way: None,
        checksum: String::new(),
    }
}

/// The id of a backup or point that begins now; later by seconds when there is one of this second.
async fn free_id(target: &dyn Target, now: UnixMillis, file_of: fn(&str) -> String) -> Result<String, BackupError> {
    let mut at = now;
    loop {
        let id = manifest::new_id(at);
        if target.size(&file_of(&id)).await?.is_none() {
            return Ok(id);
        }
        at = UnixMillis(at.0.saturating_add(1_000));
    }
}

struct Run<'a, S> {
    source: &'a S,
    target: &'a dyn Target,
    full: bool,
    storing: Storing<'a>,
    /// Segments that the kept manifest does not name.
    unsaved: usize,
    /// The manifest is being kept.
    is_saving: bool,
    manifest: Manifest,
    /// The newest earlier backup whose log may be named.
    before: Option<Manifest>,
    config: PartitionConfig,
    progress: Progress,
    report: &'a mut (dyn FnMut(Progress) + Send),
}

/// The parts of one export.
struct Parts {
    chunks: Exported,
    decoder: ExportDecoder,
    read: u64,
}

impl Parts {
    async fn next(&mut self) -> Result<Export, BackupError> {
        loop {
            let chunk = self.chunks.next().await.ok_or(ExportError::Cut)?;
            let chunk = chunk.map_err(BackupError::Hub)?;
            self.read += chunk.len() as u64;
            if let Some(item) = self.decoder.take(chunk)? {
                return Ok(item);
            }
        }
    }

    async fn head(&mut self) -> Result<LogPosition, BackupError> {
        match self.next().await? {
            Export::Head(position) => Ok(position),
            _ => Err(ExportError::Damaged("it has no head".to_owned()).into()),
        }
    }
}

impl<'a, S: HubSource> Run<'a, S> {
    /// At the begin, without an earlier backup whose log may be named.
    fn new(
        source: &'a S,
        target: &'a dyn Target,
        full: bool,
        manifest: Manifest,
        report: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        Self {
            source,
            target,
            full,
            storing: Storing::new(target, full),
            unsaved: 0,
            is_saving: false,
            manifest,
            before: None,
            config: PartitionConfig::default(),
            progress: Progress::default(),
            report,
        }
    }

    async fn open(&self, group: GroupId, log: LogScope) -> Result<Parts, BackupError> {
        Ok(Parts {
            chunks: self.source.export(group, log).await?,
            decoder: ExportDecoder::default(),
            read: 0,
        })
    }

    fn group_done(&mut self) {
        self.progress.groups_done += 1;
        (self.report)(self.progress);
    }

    /// Keeps what is complete, for a call that continues.
    async fn save(&mut self) -> Result<(), BackupError> {
        self.unsaved = 0;
        Ok(self.target.put(UNFINISHED, self.manifest.encode()).await?)
    }

    /// The next part; meanwhile objects are stored, and their names go to `names`.
    async fn next(&mut self, parts: &mut Parts, names: &mut impl Names) -> Result<Export, BackupError> {
        loop {
            tokio::select! {
                biased;
                Some(stored) = self.storing.next(), if !self.storing.is_empty() => self.stored(stored?, names),
                part = parts.next() => return part,
            }
        }
    }

    /// Begins to store an object; waits while others are stored.
    async fn store(&mut self, place: Place, content: Bytes, names: &mut impl Names) -> Result<(), BackupError> {
        while self.storing.is_full()
            && let Some(stored) = self.storing.next().await
        {
            self.stored(stored?, names);
        }
        self.storing.object(place, content);
        Ok(())
    }

    /// Waits until all that was given is durable.
    async fn settle(&mut self, names: &mut impl Names) -> Result<(), BackupError> {
        while let Some(stored) = self.storing.next().await {
            self.stored(stored?, names);
        }
        Ok(())
    }

    fn stored(&mut self, stored: Stored, names: &mut impl Names) {
        match stored {
            Stored::Unfinished => self.is_saving = false,
            Stored::Object { place, object, is_old } => {
                if is_old {
                    self.progress.reused += object.bytes;
                } else {
                    self.progress.written += object.bytes;
                }
                self.unsaved += usize::from(matches!(place, Place::Log { .. }));
                names.name(place, object);
                (self.report)(self.progress);
            }
        }
        if self.unsaved >= SEGMENTS_PER_SAVE && !self.is_saving {
            self.is_saving = true;
            self.unsaved = 0;
            self.manifest.under_way = names.under_way();
            self.storing.unfinished(self.manifest.encode());
        }
    }

    async fn registry(&mut self) -> Result<RegistryPart, BackupError> {
        let mut objects = Vec::new();
        let read = self.read_registry(&mut objects).await;
        if read.is_err() {
            self.keep(&mut objects).await;
        }
        let (position, records) = read?;
        Ok(RegistryPart {
            position,
            records,
            objects,
        })
    }

    /// Reads the records and stores them; gives the position, and how many there are.
    async fn read_registry(&mut self, objects: &mut Vec<ObjectRef>) -> Result<(Position, u64), BackupError> {
        let group = GroupId::REGISTRY;
        let mut parts = self.open(group, LogScope::All).await?;
        let position = parts.head().await?.into();
        let (mut reader, mut writer) = (RecordReader::default(), ObjectWriter::new(Kind::Registry, group));
        let mut records = 0;
        loop {
            let part = match self.next(&mut parts, objects).await? {
                Export::Part(part) => part,
                Export::End if reader.has_ended() => break,
                _ => return Err(ExportError::Cut.into()),
            };
            self.progress.read += part.len() as u64;
            for (key, value) in reader.take(part).map_err(BackupError::storage(group))? {
                check_record(&key, &value).map_err(|reason| BackupError::damaged("the hub's registry", reason))?;
                records += 1;
                if let Some(content) = writer.push_record(&key, &value)? {
                    self.store(Place::Registry, content, objects).await?;
                }
            }
        }
        if let Some(content) = writer.finish() {
            self.store(Place::Registry, content, objects).await?;
        }
        self.settle(objects).await?;
        Ok((position, records))
    }

    /// The stretches of a partition's log that are there: of the interrupted run, or of the backup before.
    async fn known_segments(&self, partition: PartitionId) -> Result<Vec<Segment>, BackupError> {
        if self.full || !self.manifest.with_log {
            return Ok(Vec::new());
        }
        let under_way = self.manifest.under_way.as_ref();
        let under_way = under_way.filter(|under_way| under_way.partition == partition.0);
        let before = self
            .before
            .as_ref()
            .and_then(|before| before.partition.get(usize::from(partition.0)));
        let last = |segments: &&Vec<Segment>| segments.last().map(|segment| segment.last);
        let known = [
            under_way.map(|under_way| &under_way.segments),
            before.map(|part| &part.segments),
        ];
        let mut segments = known
            .into_iter()
            .flatten()
            .max_by_key(last)
            .cloned()
            .unwrap_or_default();
        // A short one at the end is read again, so that segments do not become many and small.
        if segments
            .last()
            .is_some_and(|segment| segment.object.bytes < SEGMENT_BYTES as u64 / 2)
        {
            segments.pop();
        }
        for segment in &segments {
            if !has(self.target, &segment.object).await? {
                return Ok(Vec::new());
            }
        }
        Ok(segments)
    }

    async fn partition(&mut self, partition: PartitionId) -> Result<PartitionPart, BackupError> {
        let group = GroupId::partition(partition.0);
        let known = self.known_segments(partition).await?;
        let scope = match known.last() {
            _ if !self.manifest.with_log => LogScope::None,
            Some(segment) => LogScope::After(segment.last),
            None => LogScope::All,
        };
        let mut parts = self.open(group, scope).await?;
        let position = parts.head().await?;
        let mut work = PartitionRun::new(partition, position, known);
        let read = self.read_partition(&mut parts, &mut work).await;
        if read.is_err() {
            self.keep(&mut work).await;
        }
        read?;
        let damaged = |reason: &str| BackupError::damaged(format!("the export of {group}"), reason);
        let mut part = work.part.take().ok_or_else(|| damaged("it has no head"))?;
        if !work.cutter.is_empty() || work.next_index != position.index + 1 {
            return Err(damaged("entries of its log are missing"));
        }
        part.segments = work.segments;
        Ok(part)
    }

    /// Reads the parts and stores them.
    async fn read_partition(&mut self, parts: &mut Parts, work: &mut PartitionRun) -> Result<(), BackupError> {
        loop {
            match self.next(parts, work).await? {
                Export::Part(chunk) => self.partition_chunk(work, chunk).await?,
                Export::End => break,
                Export::Head(_) => return Err(ExportError::Damaged("it has two heads".to_owned()).into()),
            }
        }
        if let Some(content) = work.state.finish() {
            self.store(Place::State, content, work).await?;
        }
        if let Some(content) = work.device_states.finish() {
            self.store(Place::DeviceStates, content, work).await?;
        }
        if let Some(content) = work.log.finish() {
            self.segment(work, content).await?;
        }
        self.settle(work).await
    }

    /// Waits for what is being stored of a group that could not be read or stored to its end, and keeps what is complete of it.
    async fn keep(&mut self, names: &mut impl Names) {
        // The failure that the caller has says more than another one.
        while let Some(stored) = self.storing.next().await {
            if let Ok(stored) = stored {
                self.stored(stored, names);
            }
        }
        if self.unsaved > 0 {
            self.manifest.under_way = names.under_way();
            let _ = self.save().await;
        }
    }

    async fn segment(&mut self, work: &mut PartitionRun, content: Bytes) -> Result<(), BackupError> {
        let place = Place::Log {
            first: work.log_first,
            last: work.next_index - 1,
        };
        work.log_first = work.next_index;
        self.store(place, content, work).await
    }

    async fn partition_chunk(&mut self, work: &mut PartitionRun, chunk: Bytes) -> Result<(), BackupError> {
        let group = GroupId::partition(work.partition.0);
        self.progress.read += chunk.len() as u64;
        let part = decode_part(chunk, work.number).map_err(BackupError::storage(group))?;
        work.number += 1;
        match part {
            Part::Head(head) => {
                work.state.push_part(object::HEAD, &head);
                work.begin(head, &self.config)?;
                if let Some(last) = work.segments.last().map(|segment| segment.last)
                    && last > work.position.index
                {
                    let text = format!(
                        "the earlier backup has entries of {group} up to {last}, and the hub's log ends at {}: has the hub been \
                         set back? `--full` makes a backup that does not build on earlier ones",
                        work.position.index
                    );
                    return Err(BackupError::Behind(text));
                }
            }
            Part::Points(points) => work.state.push_part(object::POINTS, &points),
            Part::Skipped(skipped) => work.state.push_part(object::SKIPPED, &skipped),
            Part::DeviceStates(states) => {
                // The head comes first.
                work.part()?;
                for (key, record) in states {
                    if let Some(content) = work.device_states.push_record(&key, &record)? {
                        self.store(Place::DeviceStates, content, work).await?;
                    }
                }
            }
            Part::Log(piece) => {
                work.cutter.push(piece);
                while let Some(entry) = work.cutter.next_entry().map_err(BackupError::storage(group))? {
                    check_entry(work.partition, work.next_index, &entry).map_err(BackupError::storage(group))?;
                    work.next_index += 1;
                    work.log.fill_with(|| self.storing.buffer());
                    if let Some(content) = work.log.push_entry(&entry) {
                        self.segment(work, content).await?;
                    }
                }
            }
            Part::End(totals) => {
                let part = work.part()?;
                part.points = totals.points;
                part.skipped = totals.skipped;
                part.device_states = totals.device_states;
            }
        }
        Ok(())
    }
}
