//! The manifest: what a backup is made of. A backup without one does not exist.
//!
//! ```text
//! holdfast-backup.json      whose backups the folder holds
//! backups/ID.json           a manifest; the id is the time at which the backup began, in UTC
//! points/ID.json            the registry of a moment between two backups (`point`)
//! unfinished.json           the manifest of a backup that was interrupted, as far as it has come
//! objects/ab/SHA-256        objects, shared by all backups
//! ```
//!
//! Invariants: a manifest carries the SHA-256 of itself, so that one changed byte is seen; it is read like any input from
//! outside: format first, then form, then whether its parts fit together.
//! Not here: objects (`object`).

use bytes::Bytes;
use holdfast_consensus::LogPosition;
use holdfast_model::{NodeId, PartitionCount, Term, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::object;
use crate::target::Target;

/// The version of everything in a folder of backups.
pub const FORMAT: u32 = 1;

pub(crate) const REPOSITORY: &str = "holdfast-backup.json";
pub(crate) const UNFINISHED: &str = "unfinished.json";
const BACKUPS: &str = "backups";

/// Longer than any manifest: a line of 120 bytes for each object, and half a million objects.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// An object, by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// Of the whole object, in hexadecimal digits.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// The last entry that a state contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Position {
    /// Its term.
    pub term: u64,
    /// The leader of that term.
    pub node: u64,
    /// Its index in the log.
    pub index: u64,
}

impl From<LogPosition> for Position {
    fn from(position: LogPosition) -> Self {
        Self {
            term: position.term.get(),
            node: position.node.get(),
            index: position.index,
        }
    }
}

impl From<Position> for LogPosition {
    fn from(position: Position) -> Self {
        Self {
            term: Term(position.term),
            node: NodeId(position.node),
            index: position.index,
        }
    }
}

/// The registry in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryPart {
    /// Up to where it has been applied.
    pub position: Position,
    /// How many records it has.
    pub records: u64,
    /// The records, ascending by key.
    pub objects: Vec<ObjectRef>,
}

/// A stretch of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Segment {
    /// The index of its first entry.
    pub first: u64,
    /// The index of its last entry.
    pub last: u64,
    /// The entries.
    pub object: ObjectRef,
}

/// A partition in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartitionPart {
    /// Its number.
    pub partition: u16,
    /// Up to where it has been applied.
    pub position: Position,
    /// The sequence number of the oldest event in the backup; that of the next one when there is none.
    pub begin: u64,
    /// The sequence number that the next event gets.
    pub next: u64,
    /// The index of the first entry that belongs to the backup; a segment may begin before it.
    pub first_index: u64,
    /// Points of the index.
    pub points: u64,
    /// Entries that readers step over.
    pub skipped: u64,
    /// Values of device state.
    pub device_states: u64,
    /// Counters, streams, index.
    pub state: ObjectRef,
    /// Device state, ascending by key.
    pub device_state_objects: Vec<ObjectRef>,
    /// The log, ascending; none in a backup without it.
    pub segments: Vec<Segment>,
}

/// Stretches of the log of the partition at which a backup was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UnderWay {
    pub(crate) partition: u16,
    pub(crate) segments: Vec<Segment>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The time at which it began, in UTC: `20261130T084500Z`.
    pub id: String,
    /// The hub's name.
    pub hub: String,
    /// The hub's id, which a restored hub keeps.
    pub hub_id: String,
    /// The cluster's id, which a restored hub does not keep.
    pub cluster: String,
    /// The version of Holdfast that ran on the node that answered.
    pub program: String,
    /// The number of partitions; it never changes.
    pub partitions: u16,
    /// When it began, in milliseconds since 1970: what was acknowledged before is in it.
    pub begun_ms: u64,
    /// When it ended; 0 while it is in progress.
    pub ended_ms: u64,
    /// Whether it holds the events.
    pub with_log: bool,
    /// The hub's data key as the key-encryption key has wrapped it, in hexadecimal digits.
    pub wrapped_key: String,
    /// The registry; read last.
    pub registry: Option<RegistryPart>,
    /// The partitions, ascending.
    pub partition: Vec<PartitionPart>,
    /// Present in an interrupted backup only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) under_way: Option<UnderWay>,
    /// The SHA-256 of the manifest with an empty text here.
    pub checksum: String,
}

/// Whose backups a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Repository {
    pub(crate) format: u32,
    pub(crate) hub: String,
    pub(crate) hub_id: String,
}

impl Repository {
    /// The bytes of its file.
    pub(crate) fn encode(&self) -> Bytes {
        text_of(self).into()
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self, BackupError> {
        check_format(REPOSITORY, content)?;
        serde_json::from_slice(content).map_err(|error| BackupError::damaged(REPOSITORY, error))
    }
}

pub(crate) fn check_format(name: &str, content: &[u8]) -> Result<(), BackupError> {
    #[derive(Deserialize)]
    struct OfAnyFormat {
        format: u64,
    }
    let found: OfAnyFormat = serde_json::from_slice(content).map_err(|error| BackupError::damaged(name, error))?;
    if found.format != u64::from(FORMAT) {
        return Err(BackupError::Format {
            name: name.to_owned(),
            found: found.format,
            known: FORMAT,
        });
    }
    Ok(())
}

impl Manifest {
    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut sealed = self.clone();
        sealed.checksum = String::new();
        sealed.checksum = object::sha256(&text_of(&sealed));
        text_of(&sealed).into()
    }

    /// Reads the file `name`.
    ///
    /// # Errors
    /// [`BackupError::Format`], [`BackupError::Damaged`].
    pub fn decode(name: &str, content: &[u8]) -> Result<Self, BackupError> {
        check_format(name, content)?;
        let manifest: Self = serde_json::from_slice(content).map_err(|error| BackupError::damaged(name, error))?;
        if *manifest.encode() != *content {
            return Err(BackupError::damaged(name, "its checksum does not match"));
        }
        manifest.check().map_err(|reason| BackupError::damaged(name, reason))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if PartitionCount::new(self.partitions).is_none() {
            return Err("its number of partitions is none".to_owned());
        }
        for (at, part) in self.partition.iter().enumerate() {
            if usize::from(part.partition) != at || part.partition >= self.partitions {
                return Err("its partitions are not those of a hub".to_owned());
            }
            part.check(self.with_log)
                .map_err(|reason| format!("partition {}: {reason}", part.partition))?;
        }
        if self.ended_ms > 0 && (self.registry.is_none() || self.partition.len() != usize::from(self.partitions)) {
            return Err("parts of it are missing".to_owned());
        }
        Ok(())
    }

    /// The data key as wrapped.
    ///
    /// # Errors
    /// [`BackupError::Damaged`].
    pub fn wrapped_key(&self) -> Result<Vec<u8>, BackupError> {
        data_encoding::HEXLOWER
            .decode(self.wrapped_key.as_bytes())
            .map_err(|error| BackupError::damaged(file_of(&self.id), error))
    }

    /// Every object that it names.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let partitions = self.partition.iter().flat_map(|part| {
            let log = part.segments.iter().map(|segment| &segment.object);
            std::iter::once(&part.state)
                .chain(&part.device_state_objects)
                .chain(log)
        });
        self.registry
            .iter()
            .flat_map(|registry| &registry.objects)
            .chain(partitions)
    }

    /// Every object that it names, those of a partition in progress included.
    pub(crate) fn all_objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let under_way = self.under_way.iter().flat_map(|under_way| &under_way.segments);
        self.objects().chain(under_way.map(|segment| &segment.object))
    }

    /// The bytes of all its objects, those that other backups share included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects().map(|object| object.bytes).sum()
    }

    /// The number of events in it.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.partition.iter().map(|part| part.next - part.begin).sum()
    }
}

impl PartitionPart {
    fn check(&self, with_log: bool) -> Result<(), &'static str> {
        if self.begin > self.next || self.first_index > self.position.index + 1 {
            return Err("its numbers contradict each other");
        }
        let mut next = None;
        for segment in &self.segments {
            if segment.last < segment.first || next.is_some_and(|next| next != segment.first) {
                return Err("its log has a gap");
            }
            next = Some(segment.last + 1);
        }
        let has_all = match (self.segments.first(), self.segments.last()) {
            (Some(first), Some(last)) => first.first <= self.first_index && last.last == self.position.index,
            _ => self.first_index == self.position.index + 1,
        };
        match has_all && (with_log || self.segments.is_empty()) {
            true => Ok(()),
            false => Err("its log is not that of its state"),
        }
    }
}

/// A value as the text of its file.
pub(crate) fn text_of(value: &impl Serialize) -> Vec<u8> {
    // Strings and numbers: encoding cannot fail.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The file of a manifest.
pub(crate) fn file_of(id: &str) -> String {
    format!("{BACKUPS}/{id}.json")
}

/// The id of a backup that begins at `now`.
pub(crate) fn new_id(now: UnixMillis) -> String {
    let nanos = i128::from(now.0) * 1_000_000;
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

async fn ids(target: &dyn Target) -> Result<Vec<String>, BackupError> {
    let names = target.list(BACKUPS).await?;
    Ok(names
        .iter()
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect())
}

/// The backups of a folder, the oldest first; those that cannot be read as errors.
///
/// # Errors
/// [`BackupError::Target`].
pub async fn list(target: &dyn Target) -> Result<Vec<(String, Result<Manifest, BackupError>)>, BackupError> {
    let mut backups = Vec::new();
    for id in ids(target).await? {
        let manifest = find(target, &id).await;
        backups.push((id, manifest));
    }
    Ok(backups)
}

/// Reads the manifest of backup `id`.
///
/// # Errors
/// [`BackupError::NotFound`], [`BackupError::Format`], [`BackupError::Damaged`].
pub async fn find(target: &dyn Target, id: &str) -> Result<Manifest, BackupError> {
    let is_name = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let name = file_of(id);
    let content = match is_name {
        true => target.get(&name, MAX_MANIFEST_BYTES).await?,
        false => None,
    };
    let content = content.ok_or_else(|| {
        BackupError::NotFound(format!(
            "there is no backup {id:?}: `holdfast backup list` shows those that there are"
        ))
    })?;
    let manifest = Manifest::decode(&name, &content)?;
    if manifest.id != id || manifest.ended_ms == 0 {
        return Err(BackupError::damaged(name, "it is the manifest of another backup"));
    }
    Ok(manifest)
}

/// The manifest of the newest backup.
///
/// # Errors
/// As [`find`].
pub async fn latest(target: &dyn Target) -> Result<Manifest, BackupError> {
    let Some(id) = ids(target).await?.pop() else {
        let text = "there is no complete backup; one that was interrupted is continued by `holdfast backup create`";
        return Err(BackupError::NotFound(text.to_owned()));
    };
    find(target, &id).await
}

/// The manifest of a backup that was interrupted; `None` when there is none, or it cannot be used.
pub(crate) async fn unfinished(target: &dyn Target) -> Result<Option<Manifest>, BackupError> {
    let content = target.get(UNFINISHED, MAX_MANIFEST_BYTES).await?;
    Ok(content.and_then(|content| {
        let manifest = Manifest::decode(UNFINISHED, &content);
        if let Err(error) = &manifest {
            tracing::warn!(%error, "the interrupted backup cannot be continued; a new one begins");
        }
        manifest.ok()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(digit: char) -> ObjectRef {
        ObjectRef {
            sha256: digit.to_string().repeat(64),
            bytes: 10,
        }
    }

    pub(crate) fn manifest() -> Manifest {
        let position = Position {
            term: 2,
            node: 7,
            index: 90,
        };
        let part = |partition| PartitionPart {
            partition,
            position,
            begin: 10,
            next: 40,
            first_index: 50,
            points: 1,
            skipped: 0,
            device_states: 1,
            state: object('b'),
            device_state_objects: vec![object('c')],
            segments: vec![
                Segment {
                    first: 45,
                    last: 60,
                    object: object('d'),
                },
                Segment {
                    first: 61,
                    last: 90,
                    object: object('e'),
                },
            ],
        };
        Manifest {
            format: FORMAT,
            id: "20261130T084500Z".to_owned(),
            hub: "hub".to_owned(),
            hub_id: "id".to_owned(),
            cluster: "c".to_owned(),
            program: "0.1.0".to_owned(),
            partitions: 4,
            begun_ms: 1,
            ended_ms: 2,
            with_log: true,
            wrapped_key: "00ff".to_owned(),
            registry: Some(RegistryPart {
                position,
                records: 3,
                objects: vec![object('a')],
            }),
            partition: (0..4).map(part).collect(),
            under_way: None,
            checksum: String::new(),
        }
    }

    fn decode(content: &[u8]) -> Result<Manifest, BackupError> {
        Manifest::decode("m", content)
    }

    #[test]
    fn a_manifest_decodes_to_what_was_encoded_and_every_changed_byte_is_seen() {
        let content = manifest().encode();
        let read = decode(&content).unwrap();
        assert_eq!(
            Manifest {
                checksum: String::new(),
                ..read
            },
            manifest()
        );
        for at in 0..content.len() {
            let mut changed = content.to_vec();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "byte {at}");
            assert!(decode(&content[..at]).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let refused = |change: fn(&mut Manifest)| {
            let mut changed = manifest();
            change(&mut changed);
            decode(&changed.encode()).unwrap_err().to_string()
        };
        for (change, word) in [
            ((|manifest| manifest.partitions = 5) as fn(&mut Manifest), "missing"),
            (|manifest| manifest.registry = None, "missing"),
            (|manifest| manifest.partition[0].segments[1].first = 62, "gap"),
            (|manifest| drop(manifest.partition[0].segments.pop()), "log"),
            (|manifest| manifest.partition[0].first_index = 44, "log"),
            (|manifest| manifest.with_log = false, "log"),
            (|manifest| manifest.partition[0].partition = 1, "partitions"),
        ] {
            let text = refused(change);
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let mut newer = manifest();
        newer.format = 2;
        assert!(matches!(
            decode(&newer.encode()),
            Err(BackupError::Format { found: 2, .. })
        ));
    }

    #[test]
    fn an_id_is_the_time_in_utc() {
        assert_eq!(new_id(UnixMillis(1_796_028_300_123)), "20261130T084500Z");
    }
}
