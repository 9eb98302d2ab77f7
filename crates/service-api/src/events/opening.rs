//! Receivers that wait for their partition: it may be on another node, or without an owner for a moment.
//!
//! A partition that is owned here answers at once, so that the attach is answered before anything else is read. Otherwise
//! the connection goes on meanwhile, its other receivers too.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use holdfast_amqp::{Accept, LinkId};
use holdfast_cluster::route::{OpenError, Partitions, SeatError};
use holdfast_model::{ErrorCode, PartitionId};
use holdfast_partition::epoch::{self, Receiver as Candidate};
use holdfast_partition::{StartError, StartPosition};

use super::driver::Driver;
use super::receiver::{Receiver, too_many};
use super::refusal::Refused;

/// What an attach asks for.
pub(super) struct Wanted {
    pub(super) partition: PartitionId,
    pub(super) from: StartPosition,
    pub(super) group: String,
    pub(super) candidate: Candidate,
    pub(super) with_metric: bool,
}

/// A receiver that is not there yet.
pub(super) struct Opening {
    pub(super) link: LinkId,
    /// As the client's last flow has it.
    pub(super) drain: bool,
    receiver: Pin<Box<dyn Future<Output = Result<Receiver, Refused>>>>,
}

impl Opening {
    pub(super) fn new(link: LinkId, partitions: Partitions, wanted: Wanted) -> Self {
        Self {
            link,
            drain: false,
            receiver: Box::pin(open(link, partitions, wanted)),
        }
    }
}

async fn open(link: LinkId, partitions: Partitions, wanted: Wanted) -> Result<Receiver, Refused> {
    let reader = partitions.reader(wanted.partition, wanted.from).await;
    let reader = reader.map_err(|error| match error {
        OpenError::Start(error @ StartError::BeyondEnd { .. }) => {
            Refused::new(ErrorCode::ArgumentInvalid, error.to_string())
                .with_condition("com.microsoft:argument-out-of-range")
        }
        OpenError::Start(error @ StartError::TooManyReaders) => {
            Refused::new(ErrorCode::ServerBusy, error.to_string()).with_condition("amqp:resource-limit-exceeded")
        }
        OpenError::Start(StartError::Stopped) | OpenError::Unavailable(_) => Refused::busy(error.to_string()),
    })?;
    let seat = partitions
        .register(wanted.partition, &wanted.group, wanted.candidate)
        .await;
    let seat = seat.map_err(|error| match error {
        SeatError::Refused(refusal @ epoch::Refusal::EpochTooLow { .. }) => {
            Refused::new(ErrorCode::LinkCreationConflict, refusal.to_string()).with_condition("amqp:link:stolen")
        }
        SeatError::Refused(refusal @ epoch::Refusal::TooMany) => too_many(&refusal),
        SeatError::Unavailable(_) => Refused::busy(error.to_string()),
    })?;
    Ok(Receiver {
        link,
        group: wanted.group,
        reader,
        seat,
        chunk: None,
        with_metric: wanted.with_metric,
        drain: false,
    })
}

impl Driver {
    /// Opens a receiver, at once if its partition is here.
    pub(super) fn open(&mut self, mut opening: Opening) {
        match opening.receiver.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => self.opened(opening.link, opening.drain, opened),
            // Polled again, with a waker, in the turn that this is part of.
            Poll::Pending => self.openings.push(opening),
        }
    }

    /// Looks after the receivers that wait.
    pub(super) fn poll_openings(&mut self, cx: &mut Context<'_>) {
        if self.openings.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.openings);
        let mut opened = Vec::new();
        waiting.retain_mut(|opening| match opening.receiver.as_mut().poll(cx) {
            Poll::Ready(receiver) => {
                opened.push((opening.link, opening.drain, receiver));
                false
            }
            Poll::Pending => true,
        });
        self.openings = waiting;
        let any = !opened.is_empty();
        for (link, drain, receiver) in opened {
            self.opened(link, drain, receiver);
        }
        if any {
            // Tokens or settings may have changed while it waited.
            self.look_again();
        }
    }

    fn opened(&mut self, link: LinkId, drain: bool, receiver: Result<Receiver, Refused>) {
        match receiver {
            Ok(receiver) => {
                self.engine.accept(link, &Accept::default());
                self.endpoint.metrics().receivers.increment(1.0);
                self.receivers.push(Receiver { drain, ..receiver });
            }
            Err(refused) => self.refuse_attach(link, &refused),
        }
    }
}
