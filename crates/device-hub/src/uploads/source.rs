//! Notifications for a reader.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{UploadNotification, UploadReader};
use crate::DeviceHub;
use crate::c2d::api::FeedbackVerdict;
use crate::outbox::source::RecordSource;
use crate::outbox::{Outbox, Record};

/// The notifications for one reader. It calls owners only while it is polled.
pub struct UploadSource(RecordSource);

impl UploadSource {
    /// Calls no owner yet.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, reader: UploadReader) -> Self {
        Self(RecordSource::new(hub, Outbox::Uploads(reader)))
    }

    /// For a back end that can take none now: what was called for goes back as it comes, and no owner is called.
    pub fn poll_unwanted(&mut self, cx: &mut Context<'_>) {
        self.0.poll_unwanted(cx);
    }

    /// The next notifications from whatever owner has some. The caller settles them.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<UploadNotification>> {
        self.0.poll_next(cx).map(|records| {
            let notifications = records.into_iter().filter_map(|record| match record {
                Record::Upload(notification) => Some(notification),
                Record::Feedback(_) => None,
            });
            notifications.collect()
        })
    }
}

impl DeviceHub {
    /// A reader has settled notifications. Those whose owner is not reached are given again later.
    pub async fn settle_uploads(
        self: &Arc<Self>,
        reader: UploadReader,
        notifications: Vec<UploadNotification>,
        verdict: FeedbackVerdict,
    ) {
        let records = notifications.into_iter().map(Record::Upload).collect();
        self.settle_records(Outbox::Uploads(reader), records, verdict).await;
    }
}
