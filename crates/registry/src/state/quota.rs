//! How much of the daily quota is used.
//!
//! Invariant: the count of a day never shrinks, and an earlier day never replaces a later one: a node that has lost the ownership without
//! knowing it may still write.

use holdfast_proto::registry::v1::{EntryAnswer, PutQuotaUse, QuotaUseRecord};

use super::{Stop, Work, layout};
use crate::quota::QuotaUse;

pub(super) fn put(work: &mut Work<'_>, command: &PutQuotaUse) -> Result<EntryAnswer, Stop> {
    let Some(record) = &command.used else {
        return Ok(EntryAnswer::default());
    };
    let stored: Option<QuotaUseRecord> = work.view.message(layout::QUOTA_USE)?;
    let rank = |record: &QuotaUseRecord| (record.day, QuotaUse::from(record).total());
    if stored.is_none_or(|stored| rank(&stored) < rank(record)) {
        work.view.put_message(layout::QUOTA_USE.to_vec(), record);
    }
    Ok(EntryAnswer::default())
}
