//! The uploads of one device: slots, and notifications that wait.
//!
//! Invariants: at most [`MAX_DEVICE_UPLOADS`] slots are open; an upload is reported once, and a repeated report changes nothing; a
//! notification stays until each of its readers has accepted it, its time is over, or back ends have given it back too often;
//! the latest [`MAX_DEVICE_NOTIFICATIONS`] stay.
//! Pure: the clock is an argument.

use holdfast_model::limits::{MAX_DEVICE_NOTIFICATIONS, MAX_DEVICE_UPLOADS};
use holdfast_model::{GenerationId, IdentityId, UnixMillis};
use holdfast_proto::device::v1 as proto;
use prost::Message as _;

use super::{UploadNotification, UploadReader};
use crate::c2d::queue::Unreadable;

const VERSION: u32 = 1;

/// How long a slot that has ended is remembered.
const REMEMBERED_MS: u64 = 24 * 3600 * 1000;

/// Most of them that are remembered of a device.
const MAX_REMEMBERED: usize = 32;

/// An upload that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) correlation_id: Box<str>,
    pub(crate) blob_name: Box<str>,
    pub(crate) expires: UnixMillis,
    pub(crate) state: SlotState,
}

/// The state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// The device may write.
    Open,
    /// The device has reported its end.
    Reported,
    /// Its time was over before that.
    Expired,
}

impl SlotState {
    const fn number(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::Reported => 1,
            Self::Expired => 2,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Open),
            1 => Some(Self::Reported),
            2 => Some(Self::Expired),
            _ => None,
        }
    }
}

/// A notification that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredNotification {
    pub(crate) number: u64,
    pub(crate) correlation_id: Box<str>,
    pub(crate) blob_name: Box<str>,
    pub(crate) blob_uri: Box<str>,
    pub(crate) size: u64,
    pub(crate) modified: UnixMillis,
    pub(crate) at: UnixMillis,
    pub(crate) expires: UnixMillis,
    /// Bits of the readers that have not accepted it.
    pub(crate) waits_for: u32,
    pub(crate) deliveries: u32,
}

impl StoredNotification {
    pub(crate) fn of(&self, identity: &IdentityId, generation: &GenerationId) -> UploadNotification {
        UploadNotification {
            identity: identity.clone(),
            generation: generation.clone(),
            number: self.number,
            correlation_id: self.correlation_id.to_string(),
            blob_name: self.blob_name.to_string(),
            blob_uri: self.blob_uri.to_string(),
            size: self.size,
            modified: self.modified,
            at: self.at,
            deliveries: self.deliveries,
        }
    }
}

/// Why a slot was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// When the first of the open ones expires.
    pub(crate) next_expiry: UnixMillis,
}

/// Why an upload cannot be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSlot {
    Unknown,
    Expired,
}

/// What a report says of the file; `None` for readers who do not hear of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) readers: u32,
    pub(crate) blob_uri: Box<str>,
    pub(crate) size: u64,
    pub(crate) modified: UnixMillis,
    pub(crate) ttl_ms: u64,
}

/// Numbers of what a change has found out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    /// Slots whose time was over before the device has reported.
    pub(crate) slots: usize,
    /// Notifications that no back end has accepted in time, or that had to go for later ones.
    pub(crate) notifications: usize,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceUploads {
    next_number: u64,
    slots: Vec<Slot>,
    notifications: Vec<StoredNotification>,
}

impl Default for DeviceUploads {
    fn default() -> Self {
        Self {
            next_number: 1,
            slots: Vec::new(),
            notifications: Vec::new(),
        }
    }
}

impl DeviceUploads {
    /// Forgets what is too old; gives what had not ended.
    pub(crate) fn expire(&mut self, now: UnixMillis) -> Lost {
        let mut lost = Lost::default();
        for slot in &mut self.slots {
            if slot.state == SlotState::Open && slot.expires <= now {
                slot.state = SlotState::Expired;
                lost.slots += 1;
            }
        }
        self.slots
            .retain(|slot| now.0.saturating_sub(slot.expires.0) < REMEMBERED_MS);
        let is_closed = |slot: &Slot| slot.state != SlotState::Open;
        let closed = self.slots.iter().filter(|slot| is_closed(slot)).count();
        let mut surplus = closed.saturating_sub(MAX_REMEMBERED);
        self.slots.retain(|slot| {
            let goes = is_closed(slot) && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
        let before = self.notifications.len();
        self.notifications.retain(|notification| notification.expires > now);
        lost.notifications = before - self.notifications.len();
        lost
    }

    /// Opens a slot, unless the same one is open already. What is too old was forgotten before.
    pub(crate) fn begin(&mut self, slot: Slot) -> Result<(), Full> {
        if self
            .slots
            .iter()
            .any(|known| known.correlation_id == slot.correlation_id)
        {
            return Ok(());
        }
        let open = self.slots.iter().filter(|slot| slot.state == SlotState::Open);
        if open.clone().count() >= MAX_DEVICE_UPLOADS {
            return Err(Full {
                next_expiry: open.map(|slot| slot.expires).min().unwrap_or_default(),
            });
        }
        self.slots.push(slot);
        Ok(())
    }

    /// The blob of a correlation id, and whether its end was reported before.
    pub(crate) fn find(&self, correlation_id: &str) -> Result<(&str, bool), NoSlot> {
        let slot = self.slots.iter().find(|slot| *slot.correlation_id == *correlation_id);
        let slot = slot.ok_or(NoSlot::Unknown)?;
        match slot.state {
            SlotState::Open => Ok((&slot.blob_name, false)),
            SlotState::Reported => Ok((&slot.blob_name, true)),
            SlotState::Expired => Err(NoSlot::Expired),
        }
    }

    /// Closes a slot; with readers, leaves a notification. `true`: that was done before. Gives the notifications that had to go too.
    pub(crate) fn end(
        &mut self,
        correlation_id: &str,
        report: Report,
        now: UnixMillis,
    ) -> Result<(bool, usize), NoSlot> {
        let (_, is_repeated) = self.find(correlation_id)?;
        if is_repeated {
            return Ok((true, 0));
        }
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| *slot.correlation_id == *correlation_id);
        let slot = slot.ok_or(NoSlot::Unknown)?;
        slot.state = SlotState::Reported;
        if report.readers == 0 {
            return Ok((false, 0));
        }
        self.notifications.push(StoredNotification {
            number: self.next_number,
            correlation_id: slot.correlation_id.clone(),
            blob_name: slot.blob_name.clone(),
            blob_uri: report.blob_uri,
            size: report.size,
            modified: report.modified,
            at: now,
            expires: UnixMillis(now.0.saturating_add(report.ttl_ms)),
            waits_for: report.readers,
            deliveries: 0,
        });
        self.next_number += 1;
        let above = self.notifications.len().saturating_sub(MAX_DEVICE_NOTIFICATIONS);
        self.notifications.drain(..above);
        Ok((false, above))
    }

    /// The notifications that wait for a reader, oldest first.
    pub(crate) fn waiting(&self, reader: UploadReader, now: UnixMillis) -> impl Iterator<Item = &StoredNotification> {
        let waiting = self.notifications.iter();
        waiting.filter(move |one| one.waits_for & reader.bit() != 0 && one.expires > now)
    }

    /// When the next open slot or notification expires.
    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        let open = self.slots.iter().filter(|slot| slot.state == SlotState::Open);
        let notifications = self.notifications.iter().map(|one| one.expires);
        open.map(|slot| slot.expires).chain(notifications).min()
    }

    /// The readers that notifications wait for.
    pub(crate) fn readers(&self) -> impl Iterator<Item = UploadReader> {
        let waits_for = self.notifications.iter().fold(0, |bits, one| bits | one.waits_for);
        let readers = [UploadReader::BackEnd, UploadReader::Webhook].into_iter();
        readers.filter(move |reader| waits_for & reader.bit() != 0)
    }

    /// A reader has accepted notifications.
    pub(crate) fn accept(&mut self, reader: UploadReader, numbers: &[u64]) {
        for notification in &mut self.notifications {
            if numbers.contains(&notification.number) {
                notification.waits_for &= !reader.bit();
            }
        }
        self.notifications.retain(|notification| notification.waits_for != 0);
    }

    /// A back end has given notifications back; gives how many were given back too often, and are gone for back ends. Each comes with
    /// the deliveries that had been counted when it was taken: a repeated release counts once. `None`: an earlier version does not say.
    pub(crate) fn release(
        &mut self,
        reader: UploadReader,
        given_back: &[(u64, Option<u32>)],
        max_deliveries: u32,
    ) -> usize {
        let mut too_often = Vec::new();
        for notification in &mut self.notifications {
            let mut same = given_back.iter().filter(|(number, _)| *number == notification.number);
            let counts = same.any(|(_, seen)| seen.is_none_or(|seen| seen == notification.deliveries));
            if counts && reader == UploadReader::BackEnd {
                notification.deliveries = notification.deliveries.saturating_add(1);
                if notification.deliveries >= max_deliveries {
                    too_often.push(notification.number);
                }
            }
        }
        self.accept(reader, &too_often);
        too_often.len()
    }

    pub(crate) fn decode(value: Option<&[u8]>) -> Result<Self, Unreadable> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let stored = proto::StoredUploads::decode(value).map_err(|_| Unreadable)?;
        if stored.version != VERSION {
            return Err(Unreadable);
        }
        let slots = stored.slots.into_iter().map(|slot| {
            Ok(Slot {
                correlation_id: slot.correlation_id.into(),
                blob_name: slot.blob_name.into(),
                expires: UnixMillis(slot.expires_ms),
                state: SlotState::from_number(slot.state).ok_or(Unreadable)?,
            })
        });
        let notifications = stored.notifications.into_iter().map(|one| StoredNotification {
            number: one.number,
            correlation_id: one.correlation_id.into(),
            blob_name: one.blob_name.into(),
            blob_uri: one.blob_uri.into(),
            size: one.size,
            modified: UnixMillis(one.modified_ms),
            at: UnixMillis(one.at_ms),
            expires: UnixMillis(one.expires_ms),
            waits_for: one.waits_for,
            deliveries: one.deliveries,
        });
        Ok(Self {
            next_number: stored.next_number,
            slots: slots.collect::<Result<_, _>>()?,
            notifications: notifications.collect(),
        })
    }

    /// The stored form; also of none, since it keeps the numbers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let slots = self.slots.iter().map(|slot| proto::StoredUploadSlot {
            correlation_id: slot.correlation_id.to_string(),
            blob_name: slot.blob_name.to_string(),
            expires_ms: slot.expires.0,
            state: slot.state.number(),
        });
        let notifications = self.notifications.iter().map(|one| proto::StoredUploadNotification {
            number: one.number,
            correlation_id: one.correlation_id.to_string(),
            blob_name: one.blob_name.to_string(),
            blob_uri: one.blob_uri.to_string(),
            size: one.size,
            modified_ms: one.modified.0,
            at_ms: one.at.0,
            expires_ms: one.expires.0,
            waits_for: one.waits_for,
            deliveries: one.deliveries,
        });
        let stored = proto::StoredUploads {
            version: VERSION,
            next_number: self.next_number,
            slots: slots.collect(),
            notifications: notifications.collect(),
        };
        stored.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, expires: u64) -> Slot {
        Slot {
            correlation_id: name.into(),
            blob_name: format!("dev-1/{name}.txt").into(),
            expires: UnixMillis(expires),
            state: SlotState::Open,
        }
    }

    fn report(readers: u32) -> Report {
        Report {
            readers,
            blob_uri: "https://h/c/b".into(),
            size: 5,
            modified: UnixMillis(1),
            ttl_ms: 1000,
        }
    }

    #[test]
    fn slots_are_bounded_and_free_again_when_reported_or_expired() {
        let mut uploads = DeviceUploads::default();
        for number in 0..MAX_DEVICE_UPLOADS {
            uploads.begin(slot(&number.to_string(), 100 + number as u64)).unwrap();
            uploads.begin(slot(&number.to_string(), 999)).unwrap();
        }
        let full = Full {
            next_expiry: UnixMillis(100),
        };
        assert_eq!(uploads.begin(slot("more", 100)), Err(full));
        assert_eq!(uploads.end("3", report(0), UnixMillis(50)), Ok((false, 0)));
        assert_eq!(uploads.begin(slot("more", 500)), Ok(()));
        assert_eq!(uploads.begin(slot("again", 500)), Err(full));
        assert_eq!(uploads.next_expiry(), Some(UnixMillis(100)));
        assert_eq!(uploads.expire(UnixMillis(100)).slots, 1);
        assert_eq!(uploads.begin(slot("again", 500)), Ok(()));
        assert_eq!(uploads.expire(UnixMillis(100)).slots, 0, "counted once");
    }

    #[test]
    fn a_report_counts_once_and_says_whether_it_came_too_late() {
        let mut uploads = DeviceUploads::default();
        uploads.begin(slot("a", 100)).unwrap();
        uploads.begin(slot("b", 100)).unwrap();
        assert_eq!(uploads.find("a"), Ok(("dev-1/a.txt", false)));
        assert_eq!(uploads.end("a", report(1), UnixMillis(10)), Ok((false, 0)));
        assert_eq!(uploads.end("a", report(1), UnixMillis(11)), Ok((true, 0)));
        assert_eq!(uploads.waiting(UploadReader::BackEnd, UnixMillis(11)).count(), 1);
        assert_eq!(uploads.end("x", report(1), UnixMillis(11)), Err(NoSlot::Unknown));
        uploads.expire(UnixMillis(100));
        assert_eq!(uploads.end("b", report(1), UnixMillis(100)), Err(NoSlot::Expired));
        assert_eq!(uploads.end("a", report(1), UnixMillis(100)), Ok((true, 0)));
        uploads.expire(UnixMillis(100 + REMEMBERED_MS));
        assert_eq!(uploads.find("a"), Err(NoSlot::Unknown), "forgotten after a day");
    }

    #[test]
    fn a_device_that_never_reports_leaves_a_bounded_memory() {
        let mut uploads = DeviceUploads::default();
        for number in 0..1000_u64 {
            uploads.expire(UnixMillis(number * 10));
            uploads.begin(slot(&number.to_string(), number * 10 + 10)).unwrap();
        }
        assert!(uploads.slots.len() <= MAX_REMEMBERED + 1, "{}", uploads.slots.len());
    }

    #[test]
    fn a_notification_waits_for_each_reader_within_its_time_and_number() {
        let mut uploads = DeviceUploads::default();
        let both = UploadReader::BackEnd.bit() | UploadReader::Webhook.bit();
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            uploads.begin(slot(name, 10_000)).unwrap();
            uploads.end(name, report(both), UnixMillis(at as u64)).unwrap();
        }
        let numbers = |uploads: &DeviceUploads, reader| {
            let waiting = uploads.waiting(reader, UnixMillis(5));
            waiting.map(|one| one.number).collect::<Vec<_>>()
        };
        uploads.accept(UploadReader::BackEnd, &[1, 2]);
        uploads.accept(UploadReader::Webhook, &[2]);
        assert_eq!(numbers(&uploads, UploadReader::BackEnd), [3]);
        assert_eq!(numbers(&uploads, UploadReader::Webhook), [1, 3]);
        assert_eq!(
            uploads.release(UploadReader::Webhook, &[(1, Some(0))], 2),
            0,
            "it has no count"
        );
        assert_eq!(uploads.release(UploadReader::BackEnd, &[(3, Some(0))], 2), 0);
        let again = uploads.clone();
        assert_eq!(uploads.release(UploadReader::BackEnd, &[(3, Some(0))], 2), 0);
        assert_eq!(uploads, again, "the same request, repeated");
        let mut of_earlier = uploads.clone();
        assert_eq!(of_earlier.release(UploadReader::BackEnd, &[(3, None)], 2), 1);
        assert_eq!(uploads.release(UploadReader::BackEnd, &[(3, Some(1))], 2), 1);
        assert_eq!(uploads.readers().collect::<Vec<_>>(), [UploadReader::Webhook]);
        assert_eq!(uploads.expire(UnixMillis(1000)).notifications, 1);
        for number in 0..MAX_DEVICE_NOTIFICATIONS + 3 {
            let name = number.to_string();
            uploads.begin(slot(&name, 100_000)).unwrap();
            let (_, gone) = uploads.end(&name, report(1), UnixMillis(2000)).unwrap();
            // Numbers 1 to 3 are gone already.
            assert_eq!(gone, usize::from(uploads.notifications[0].number > 4));
            uploads.expire(UnixMillis(2000));
        }
        assert_eq!(uploads.notifications.len(), MAX_DEVICE_NOTIFICATIONS);
    }

    #[test]
    fn stored_bytes_never_change() {
        let mut uploads = DeviceUploads::default();
        uploads.begin(slot("a", 7)).unwrap();
        let fixed = |tag: u8, value: u8| [tag, value, 0, 0, 0, 0, 0, 0, 0];
        let expected = [
            &[0x08, 1][..],
            &fixed(0x11, 1),
            &[0x1a, 25, 0x0a, 1, b'a', 0x12, 11],
            b"dev-1/a.txt",
            &fixed(0x19, 7),
        ]
        .concat();
        assert_eq!(uploads.encode(), expected);
        uploads.end("a", report(3), UnixMillis(5)).unwrap();
        let value = uploads.encode();
        assert_eq!(DeviceUploads::decode(Some(&value)), Ok(uploads));
        for bytes in [&[0x08, 2][..], &[0xff], &[0x08, 1, 0x1a, 2, 0x20, 9]] {
            assert_eq!(DeviceUploads::decode(Some(bytes)), Err(Unreadable), "{bytes:?}");
        }
    }
}
