//! Uploads from any node: begin, report, and settle notifications at the owner of the device's partition.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{GenerationId, IdentityId, PartitionId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::upload_answer::Outcome;
use holdfast_proto::cluster::v1::upload_request::Operation;
use thiserror::Error;

use super::UploadReader;
use super::state::{DeviceUploads, Lost, NoSlot, Report, Slot, SlotState};
use crate::c2d::api::FeedbackVerdict;
use crate::c2d::index::is_earlier;
use crate::c2d::maintain::{MAX_EXPIRING, RETRY_MS};
use crate::c2d::queue::Unreadable;
use crate::outbox::{Outbox, SeenRecord};
use crate::owner::state_writer::ChangeError;
use crate::rpc::owner_call::Repeat;
use crate::{DeviceHub, Requester};

/// How long a request waits for the owner of the partition.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request about an upload was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UploadError {
    /// The device has begun as many uploads as it may. Nothing has changed.
    #[error("the device has 10 uploads that it has begun and not reported; the first of them expires in {wait_s} s")]
    Full {
        /// Seconds until the first one expires.
        wait_s: u64,
    },
    /// No upload of the device has this correlation id.
    #[error("no upload of the device has this correlation id")]
    UnknownId,
    /// The upload was not reported in time.
    #[error("the time of the upload was over before this report")]
    Expired,
    /// The device was deleted or created again. Nothing has changed.
    #[error("the device was deleted, or created again")]
    Gone,
    /// No owner was reached, or it cannot take the request now. Nothing has changed.
    #[error("no owner of the device's partition has taken the request")]
    NoOwner,
    /// The owner's version cannot read the device's uploads. Nothing has changed.
    #[error("the version of the partition's owner cannot read the device's uploads")]
    Unreadable,
    /// The owner did not answer. The request may have been carried out; it may be repeated.
    #[error("it is unknown whether the request was carried out")]
    Unknown,
}

impl From<ChangeError> for UploadError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Unknown => Self::Unknown,
            ChangeError::NotOwner | ChangeError::Busy | ChangeError::DiskFull => Self::NoOwner,
            // A value is far smaller than an entry may be.
            ChangeError::TooLarge => Self::Unreadable,
        }
    }
}

/// An upload of a device, by its correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundUpload {
    /// The blob's name, the device's id included.
    pub blob_name: String,
    /// Its end was reported before.
    pub is_reported: bool,
}

/// A file that was uploaded, as the storage describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFile {
    /// Where it is, without a signature.
    pub uri: String,
    /// Its bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: UnixMillis,
}

fn outcome(outcome: Outcome) -> proto::UploadAnswer {
    proto::UploadAnswer {
        outcome: outcome.into(),
        ..proto::UploadAnswer::default()
    }
}

impl From<NoSlot> for proto::UploadAnswer {
    fn from(error: NoSlot) -> Self {
        match error {
            NoSlot::Unknown => outcome(Outcome::UnknownId),
            NoSlot::Expired => outcome(Outcome::Expired),
        }
    }
}

impl DeviceHub {
    /// Opens a slot for an upload. Returned: a quorum has stored it.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn begin_upload(
        self: &Arc<Self>,
        requester: &Requester,
        correlation_id: &str,
        blob_name: &str,
    ) -> Result<(), UploadError> {
        let lifetime = self.parts.config.uploads.sas_ttl.get();
        let operation = Operation::Begin(proto::UploadBegin {
            correlation_id: correlation_id.to_owned(),
            blob_name: blob_name.to_owned(),
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
        });
        let (identity, generation) = (requester.identity(), requester.generation());
        let begun = self.ask_about_upload(identity, generation, operation).await;
        match &begun {
            Ok(_) => {
                self.metrics.uploads_begun.increment(1);
                self.charge(|| 1);
            }
            Err(UploadError::Full { .. }) => self.metrics.uploads_refused.increment(1),
            Err(_) => {}
        }
        begun.map(|_| ())
    }

    /// The upload that the device means.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn find_upload(
        self: &Arc<Self>,
        requester: &Requester,
        correlation_id: &str,
    ) -> Result<FoundUpload, UploadError> {
        let operation = Operation::Find(proto::UploadFind {
            correlation_id: correlation_id.to_owned(),
        });
        let (identity, generation) = (requester.identity(), requester.generation());
        let found = self.ask_about_upload(identity, generation, operation).await?;
        Ok(FoundUpload {
            blob_name: found.blob_name,
            is_reported: found.repeated,
        })
    }

    /// The device has reported the end of an upload; with a file, back ends and the webhook are notified as the configuration says.
    /// Returned: a quorum has stored it. A repeated report changes nothing.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn end_upload(
        self: &Arc<Self>,
        requester: &Requester,
        correlation_id: &str,
        file: Option<&UploadedFile>,
    ) -> Result<(), UploadError> {
        let config = &self.parts.config.uploads;
        let back_ends = config.notifications.then_some(UploadReader::BackEnd);
        let webhook = (!config.webhook.is_empty()).then_some(UploadReader::Webhook);
        let readers = back_ends
            .into_iter()
            .chain(webhook)
            .fold(0, |bits, reader| bits | reader.bit());
        let operation = Operation::End(proto::UploadEnd {
            correlation_id: correlation_id.to_owned(),
            readers: file.map_or(0, |_| readers),
            blob_uri: file.map(|file| file.uri.clone()).unwrap_or_default(),
            size: file.map_or(0, |file| file.size),
            modified_ms: file.map_or(0, |file| file.modified.0),
            ttl_ms: u64::try_from(config.notification_ttl.get().as_millis()).unwrap_or(u64::MAX),
        });
        let (identity, generation) = (requester.identity(), requester.generation());
        let ended = self.ask_about_upload(identity, generation, operation).await?;
        if !ended.repeated {
            self.charge(|| 1);
            match file {
                Some(_) => self.metrics.uploads_succeeded.increment(1),
                None => self.metrics.uploads_failed.increment(1),
            }
        }
        Ok(())
    }

    /// `seen`: numbers of notifications, each with the deliveries that had been counted when the reader got it.
    pub(crate) async fn ask_to_settle(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        reader: UploadReader,
        seen: &[SeenRecord],
        verdict: FeedbackVerdict,
    ) -> Result<(), UploadError> {
        let operation = Operation::Settle(proto::UploadSettle {
            numbers: seen.iter().map(|(number, _)| *number).collect(),
            seen_deliveries: seen.iter().map(|(_, deliveries)| *deliveries).collect(),
            released: verdict != FeedbackVerdict::Done,
            untouched: verdict == FeedbackVerdict::Untouched,
            reader: reader.number(),
            max_deliveries: self.parts.config.uploads.notification_max_deliveries,
        });
        self.ask_about_upload(identity, generation, operation).await.map(|_| ())
    }

    async fn ask_about_upload(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        operation: Operation,
    ) -> Result<proto::UploadAnswer, UploadError> {
        let request = Request::Upload(proto::UploadRequest {
            device: identity.device.as_str().to_owned(),
            generation: generation.0.to_string(),
            operation: Some(operation),
        });
        // Each of them finds what it has done before.
        let answer = match self.ask_owner(identity, request, Repeat::Always, TIMEOUT).await? {
            Answer::Upload(answer) => answer,
            _ => return Err(UploadError::Unknown),
        };
        let now = self.parts.clock.now();
        match answer.outcome() {
            Outcome::Done => Ok(answer),
            Outcome::Full => Err(UploadError::Full {
                wait_s: answer.next_expiry_ms.saturating_sub(now.0).div_ceil(1000),
            }),
            Outcome::Gone => Err(UploadError::Gone),
            Outcome::Unreadable => Err(UploadError::Unreadable),
            Outcome::UnknownId => Err(UploadError::UnknownId),
            Outcome::Expired => Err(UploadError::Expired),
            Outcome::Unspecified => Err(UploadError::Unknown),
        }
    }

    /// Carries out a request as the owner of the partition.
    pub(crate) async fn answer_upload(
        self: &Arc<Self>,
        partition: PartitionId,
        request: proto::UploadRequest,
    ) -> Result<proto::UploadAnswer, ChangeError> {
        let generation = GenerationId(request.generation.into());
        let identity = crate::rpc::codec::decode_identity(&request.device, "");
        let (Ok(identity), Some(operation)) = (identity, request.operation) else {
            // Not of this version.
            return Ok(outcome(Outcome::Unspecified));
        };
        let known = self.known_generation(&identity);
        if known.is_some_and(|known| is_earlier(&generation, &known)) {
            return Ok(outcome(Outcome::Gone));
        }
        let settled = match &operation {
            Operation::Settle(settle) => {
                UploadReader::from_number(settle.reader).map(|reader| (reader, settle.numbers.clone()))
            }
            _ => None,
        };
        let changed = self.change_uploads(partition, &identity, &generation, |uploads, now, lost| {
            decide(uploads, operation, now, lost)
        });
        let Some((answer, readers)) = changed.await? else {
            return Ok(outcome(Outcome::Unreadable));
        };
        if let Some((reader, numbers)) = &settled {
            let mut index = self.cloud_queues.partition(partition).lock();
            index.leases(Outbox::Uploads(*reader)).release(&identity, numbers);
        }
        if !readers.is_empty() {
            self.cloud_queues.record_changes.send_modify(|count| *count += 1);
        }
        Ok(answer)
    }

    /// Changes the uploads of a device as the owner: what is too old goes first, and the index hears of the result. Gives the answer of
    /// `decide`, and the readers that notifications wait for; `None`: this version cannot read them.
    async fn change_uploads<T: Send + 'static>(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        decide: impl FnOnce(&mut DeviceUploads, UnixMillis, &mut Lost) -> T + Send + 'static,
    ) -> Result<Option<(T, Vec<UploadReader>)>, ChangeError> {
        let key = Outbox::Uploads(UploadReader::BackEnd).key(identity, generation);
        let queues = Arc::clone(&self.cloud_queues);
        let changed = self.change_state(partition, vec![key.clone()], move |changes| {
            let decision = queues.decisions.fetch_add(1, Ordering::Relaxed) + 1;
            let now = changes.now();
            let before = DeviceUploads::decode(changes.get(&key).map(|value| &value[..]))?;
            let mut uploads = before.clone();
            let mut lost = uploads.expire(now);
            let answer = decide(&mut uploads, now, &mut lost);
            if uploads != before {
                changes.set(&key, Some(uploads.encode()));
            }
            let readers: Vec<UploadReader> = uploads.readers().collect();
            Ok::<_, Unreadable>((answer, lost, readers, uploads.next_expiry(), decision))
        });
        let Ok((answer, lost, readers, next_expiry, decision)) = changed.await? else {
            return Ok(None);
        };
        self.metrics.uploads_expired.increment(lost.slots as u64);
        self.metrics
            .upload_notifications_dropped
            .increment(lost.notifications as u64);
        let is_due_changed = {
            let mut index = self.cloud_queues.partition(partition).lock();
            for reader in [UploadReader::BackEnd, UploadReader::Webhook] {
                let leases = index.leases(Outbox::Uploads(reader));
                match readers.contains(&reader) {
                    true => leases.note(identity, generation, decision),
                    false => leases.forget_after(identity, decision),
                }
            }
            index.uploads_due.note(identity, generation, decision, next_expiry)
        };
        if is_due_changed {
            self.cloud_queues.due_changed.notify_one();
        }
        Ok(Some((answer, readers)))
    }

    /// Expires the slots and notifications whose time is over, so that they are counted without a request of their device.
    pub(crate) async fn expire_uploads_due(self: &Arc<Self>, now: UnixMillis) {
        let mut due = Vec::new();
        for partition in self.parts.partitions.count().iter() {
            let most = MAX_EXPIRING - due.len();
            let taken = self
                .cloud_queues
                .partition(partition)
                .lock()
                .uploads_due
                .take(now, most);
            due.extend(
                taken
                    .into_iter()
                    .map(|(identity, generation)| (partition, identity, generation)),
            );
        }
        // All of them at once: requests of a partition that wait together are one entry.
        let expired = due.into_iter().map(|(partition, identity, generation)| async move {
            let outcome = self
                .change_uploads(partition, &identity, &generation, |_, _, _| ())
                .await;
            match outcome {
                Ok(_) | Err(ChangeError::NotOwner) => {}
                Err(error) => {
                    tracing::debug!(%identity, %error, "uploads could not be expired; trying again");
                    let again = UnixMillis(now.0.saturating_add(RETRY_MS));
                    let mut index = self.cloud_queues.partition(partition).lock();
                    index.uploads_due.note(&identity, &generation, 0, Some(again));
                }
            }
        });
        stream::iter(expired)
            .buffer_unordered(MAX_EXPIRING)
            .collect::<Vec<()>>()
            .await;
    }
}

fn decide(uploads: &mut DeviceUploads, operation: Operation, now: UnixMillis, lost: &mut Lost) -> proto::UploadAnswer {
    match operation {
        Operation::Begin(begin) => {
            let slot = Slot {
                correlation_id: begin.correlation_id.into(),
                blob_name: begin.blob_name.into(),
                expires: UnixMillis(now.0.saturating_add(begin.lifetime_ms)),
                state: SlotState::Open,
            };
            match uploads.begin(slot) {
                Ok(()) => outcome(Outcome::Done),
                Err(full) => proto::UploadAnswer {
                    next_expiry_ms: full.next_expiry.0,
                    ..outcome(Outcome::Full)
                },
            }
        }
        Operation::Find(find) => match uploads.find(&find.correlation_id) {
            Ok((blob_name, repeated)) => proto::UploadAnswer {
                blob_name: blob_name.to_owned(),
                repeated,
                ..outcome(Outcome::Done)
            },
            Err(error) => error.into(),
        },
        Operation::End(end) => {
            let report = Report {
                readers: end.readers,
                blob_uri: end.blob_uri.into(),
                size: end.size,
                modified: UnixMillis(end.modified_ms),
                ttl_ms: end.ttl_ms,
            };
            match uploads.end(&end.correlation_id, report, now) {
                Ok((repeated, dropped)) => {
                    lost.notifications += dropped;
                    proto::UploadAnswer {
                        repeated,
                        ..outcome(Outcome::Done)
                    }
                }
                Err(error) => error.into(),
            }
        }
        Operation::Settle(settle) => {
            let Some(reader) = UploadReader::from_number(settle.reader) else {
                return outcome(Outcome::Unspecified);
            };
            match (settle.released, settle.untouched) {
                // Its lease ends with this request.
                (true, true) => {}
                (true, false) => {
                    let seen = settle.seen_deliveries.iter().copied().map(Some);
                    let seen = seen.chain(std::iter::repeat(None));
                    let given_back: Vec<_> = settle.numbers.into_iter().zip(seen).collect();
                    lost.notifications += uploads.release(reader, &given_back, settle.max_deliveries);
                }
                (false, _) => uploads.accept(reader, &settle.numbers),
            }
            outcome(Outcome::Done)
        }
    }
}
