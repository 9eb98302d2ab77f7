//! Records that owners keep for back ends until one of them has accepted each: feedback about messages, and notifications about
//! uploaded files.
//!
//! Why one mechanism: both are kept with the state of a device, wait at its owner, go to one back end at a time, and are given again
//! when that one does not settle them (docs/decisions/0036, 0045). What a record says is its own feature's (`c2d`, `uploads`).

pub(crate) mod leases;
pub(crate) mod source;

use holdfast_model::{GenerationId, IdentityId, UnixMillis};
use holdfast_partition::record::DeviceStateKind;

use crate::c2d::api::Feedback;
use crate::c2d::feedback::DeviceFeedback;
use crate::owner::state_changes::StateKey;
use crate::uploads::state::DeviceUploads;
use crate::uploads::{UploadNotification, UploadReader};

/// Records of one kind for one kind of reader; each has leases of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outbox {
    /// Outcomes of messages.
    Feedback,
    /// Uploaded files.
    Uploads(UploadReader),
}

impl Outbox {
    pub(crate) const ALL: [Self; 3] = [
        Self::Feedback,
        Self::Uploads(UploadReader::BackEnd),
        Self::Uploads(UploadReader::Webhook),
    ];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Feedback => 0,
            Self::Uploads(UploadReader::BackEnd) => 1,
            Self::Uploads(UploadReader::Webhook) => 2,
        }
    }

    /// The value with a device's records.
    pub(crate) fn key(self, identity: &IdentityId, generation: &GenerationId) -> StateKey {
        let kind = match self {
            Self::Feedback => DeviceStateKind::FEEDBACK,
            Self::Uploads(_) => DeviceStateKind::UPLOADS,
        };
        StateKey::new(kind, identity, generation)
    }

    /// The records of that value that wait for this reader. A value of another version has none that this one could give.
    pub(crate) fn waiting(
        self,
        value: Option<&[u8]>,
        identity: &IdentityId,
        generation: &GenerationId,
        now: UnixMillis,
    ) -> Vec<Record> {
        match self {
            Self::Feedback => {
                let stored = DeviceFeedback::decode(value).unwrap_or_default().0;
                let kept = stored.into_iter().filter(|record| record.is_kept(now));
                let records = kept.map(|record| {
                    Record::Feedback(Feedback {
                        identity: identity.clone(),
                        generation: generation.clone(),
                        number: record.number,
                        message_id: record.message_id.into(),
                        status: record.status,
                        at: record.at,
                    })
                });
                records.collect()
            }
            Self::Uploads(reader) => {
                let stored = DeviceUploads::decode(value).unwrap_or_default();
                let waiting = stored.waiting(reader, now);
                let records = waiting.map(|notification| Record::Upload(notification.of(identity, generation)));
                records.collect()
            }
        }
    }
}

/// A record's number, and its deliveries that had been counted when it was taken.
pub(crate) type SeenRecord = (u64, u32);

/// A record on its way to a back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Feedback(Feedback),
    Upload(UploadNotification),
}

impl Record {
    /// Its device, and its name among the records of the device.
    pub(crate) fn name(&self) -> (&IdentityId, &GenerationId, u64) {
        match self {
            Self::Feedback(one) => (&one.identity, &one.generation, one.number),
            Self::Upload(one) => (&one.identity, &one.generation, one.number),
        }
    }

    /// Deliveries that had been counted when it was taken; feedback has no count.
    pub(crate) fn deliveries(&self) -> u32 {
        match self {
            Self::Feedback(_) => 0,
            Self::Upload(one) => one.deliveries,
        }
    }
}
