//! Feedback for a back end.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::api::Feedback;
use crate::DeviceHub;
use crate::outbox::source::RecordSource;
use crate::outbox::{Outbox, Record};

/// The feedback for one back end. It calls owners only while it is polled.
pub struct FeedbackSource(RecordSource);

impl FeedbackSource {
    /// Calls no owner yet.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>) -> Self {
        Self(RecordSource::new(hub, Outbox::Feedback))
    }

    /// For a back end that can take none now: what was called for goes back as it comes, and no owner is called.
    pub fn poll_unwanted(&mut self, cx: &mut Context<'_>) {
        self.0.poll_unwanted(cx);
    }

    /// The next records, at most [`MAX_FEEDBACK_BATCH`](holdfast_model::limits::MAX_FEEDBACK_BATCH), from whatever owner has some. The
    /// caller settles them.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Feedback>> {
        self.0.poll_next(cx).map(|records| {
            let feedback = records.into_iter().filter_map(|record| match record {
                Record::Feedback(feedback) => Some(feedback),
                Record::Upload(_) => None,
            });
            feedback.collect()
        })
    }
}
