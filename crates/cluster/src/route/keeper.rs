//! Entering and renewing readers' places at the owners, and what an owner does about them.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_consensus::transport::{Call, Service};
use holdfast_model::{PartitionId, limits};
use holdfast_partition::epoch::{Receiver, Refusal, Since};
use holdfast_proto::cluster::v1::{
    RouteReceiver, RouteSeat, RouteSeatAnswer, RouteSeatsAnswer, RouteSeatsRequest, RouteStolen, route_seat_answer,
};
use tokio::time::Instant;

use super::Partitions;
use super::desk::{Desk, MAX_SEATS, Notice, TermOver, Wanted};
use super::owners::Owner;
use super::question::RETRY;
use super::seats::{MAX_PER_CALL, SEAT_LEASE, SEAT_RENEWAL, Seat, SeatError};
use super::wire::{self, Kind, Told};

/// How long a receiver waits for an owner that lets it in or not.
const SEAT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a node may take to hear that a place is lost; it asks by itself too.
const NOTICE_PATIENCE: Duration = Duration::from_secs(2);
/// The longest name of a group or a receiver, in bytes.
const MAX_NAME_BYTES: usize = 1024;

const _: () = assert!(SEAT_LEASE.as_millis() >= 3 * SEAT_RENEWAL.as_millis());
const _: () = assert!(limits::MAX_READERS_PER_GROUP < MAX_SEATS);

/// What the owner said about a receiver.
enum Verdict {
    In(Since),
    TakenBy(Receiver),
    Crowded,
}

impl Partitions {
    /// Lets a receiver into a consumer group, by the rule of epochs, whoever owns the partition. The place is kept over
    /// changes of owner.
    ///
    /// # Errors
    /// [`SeatError`].
    pub async fn register(&self, id: PartitionId, group: &str, receiver: Receiver) -> Result<Seat, SeatError> {
        let (seat, wanted) = self.0.seats.take(self, id, group, receiver);
        let give_up = Instant::now() + SEAT_PATIENCE;
        let mut owner = self.owner(id);
        loop {
            if let Some(owner) = owner
                && let Some(verdict) = self.enter(id, owner, &wanted).await
            {
                return match verdict {
                    Verdict::In(since) => {
                        self.0.seats.entered(id, seat.key(), owner, since);
                        Ok(seat)
                    }
                    Verdict::Crowded => Err(Refusal::TooMany.into()),
                    Verdict::TakenBy(by) => Err(too_low(wanted.receiver, by).into()),
                };
            }
            if Instant::now() >= give_up {
                return Err(SeatError::Unavailable(id));
            }
            owner = self.owner_after(id, owner, RETRY).await;
        }
    }

    /// Asks one owner about one receiver; `None` when it cannot say.
    async fn enter(&self, id: PartitionId, owner: Owner, wanted: &Wanted) -> Option<Verdict> {
        if owner.node == self.node() {
            return self.enter_here(id, owner, self.node(), wanted).ok();
        }
        let request = RouteSeatsRequest {
            enter: vec![put_wanted(wanted)],
            ..RouteSeatsRequest::default()
        };
        let answer: RouteSeatsAnswer = self.ask_node(owner, id, Kind::Seats, &request).await?;
        get_verdict(answer.entered.into_iter().next()?)
    }

    /// Decides about a receiver of `node`, as the owner.
    fn enter_here(&self, id: PartitionId, owner: Owner, node: u64, wanted: &Wanted) -> Result<Verdict, TermOver> {
        let mut notices = Vec::new();
        let entered = self.desk(id).enter(owner.term, node, wanted, &mut notices)?;
        for notice in notices {
            self.notify(id, notice);
        }
        Ok(match entered {
            Ok(since) => Verdict::In(since),
            Err(Refusal::TooMany) => Verdict::Crowded,
            Err(Refusal::EpochTooLow { owner, current, .. }) => Verdict::TakenBy(Receiver {
                name: owner,
                epoch: Some(current),
            }),
        })
    }

    fn desk(&self, id: PartitionId) -> &Desk {
        &self.0.desks[usize::from(id.0)]
    }

    /// Tells the node of a receiver that its place is lost. When it cannot be told it finds out when it renews.
    fn notify(&self, id: PartitionId, notice: Notice) {
        if notice.node == self.node() {
            self.0.seats.oust(id, notice.key, Some(notice.by));
            return;
        }
        let stolen = RouteStolen {
            key: notice.key,
            by: Some(put_receiver(&notice.by)),
        };
        let call = Call {
            service: Service::Partition,
            target: u32::from(id.0),
            body: wire::request(Kind::Stolen, &stolen),
            timeout: NOTICE_PATIENCE,
        };
        let answer = self.0.transport.call(notice.node, call);
        let tell = async move {
            if let Err(error) = answer.await {
                tracing::debug!(partition = id.0, node = notice.node, %error, "a reader's node was not told of its loss");
            }
        };
        holdfast_tasks::spawn_critical("tell-stolen", Box::pin(tell));
    }

    /// Tells the owner of one partition what is due; whether it has heard.
    async fn sync(&self, id: PartitionId) -> bool {
        let Some(owner) = self.owner(id) else { return false };
        let due = self.0.seats.due(id, owner);
        if owner.node == self.node() {
            for wanted in &due.enter {
                if let Ok(verdict) = self.enter_here(id, owner, owner.node, wanted) {
                    self.settle(id, owner, wanted.key, Some(verdict));
                }
            }
            return true;
        }
        if due.is_empty() {
            return true;
        }
        let request = RouteSeatsRequest {
            enter: due.enter.iter().map(put_wanted).collect(),
            renew: due.renew,
            leave: due.leave,
        };
        let answer: Option<RouteSeatsAnswer> = self.ask_node(owner, id, Kind::Seats, &request).await;
        let Some(answer) = answer else { return false };
        for (wanted, answer) in due.enter.iter().zip(answer.entered) {
            self.settle(id, owner, wanted.key, get_verdict(answer));
        }
        for key in answer.unknown {
            self.0.seats.unknown(id, key);
        }
        true
    }

    fn settle(&self, id: PartitionId, owner: Owner, key: u64, verdict: Option<Verdict>) {
        match verdict {
            Some(Verdict::In(since)) => self.0.seats.entered(id, key, owner, since),
            Some(Verdict::TakenBy(by)) => self.0.seats.oust(id, key, Some(by)),
            Some(Verdict::Crowded) => self.0.seats.oust(id, key, None),
            None => {}
        }
    }
}

fn too_low(refused: Receiver, by: Receiver) -> Refusal {
    Refusal::EpochTooLow {
        name: refused.name,
        epoch: refused.epoch,
        owner: by.name,
        current: by.epoch.unwrap_or_default(),
    }
}

/// Keeps the places of this node's readers, and forgets those of dead nodes, for ever.
pub(super) async fn keep(partitions: &Partitions) {
    let mut changes = partitions.owner_changes();
    let mut renewal = tokio::time::interval(SEAT_RENEWAL);
    let mut under_way = FuturesUnordered::new();
    let mut busy: HashSet<PartitionId> = HashSet::new();
    let sync = |id: PartitionId| async move {
        let has_heard = partitions.sync(id).await;
        (id, has_heard)
    };
    loop {
        let mut due = Vec::new();
        tokio::select! {
            biased;
            _ = renewal.tick() => {
                let silent = Instant::now().checked_sub(SEAT_LEASE);
                for id in partitions.count().iter() {
                    let expired = silent.map_or(0, |before| partitions.desk(id).expire(before));
                    if expired > 0 {
                        tracing::info!(partition = id.0, expired, "places of readers ended: their nodes are silent");
                    }
                    due.push(id);
                }
            }
            Some((id, has_heard)) = under_way.next() => {
                busy.remove(&id);
                // Another owner, or more than one call takes. Who has not heard is told with the next renewal.
                let owner = partitions.owner(id).filter(|_| has_heard);
                if owner.is_some_and(|owner| partitions.0.seats.has_news(id, owner)) {
                    due.push(id);
                }
            }
            change = changes.next() => match change {
                Some((id, owner)) => {
                    if owner.is_none_or(|owner| owner.node != partitions.node()) {
                        partitions.desk(id).close();
                    }
                    due.push(id);
                }
                None => return,
            },
            () = partitions.0.seats.dirty.notified() => {
                let has_news = |id: &PartitionId| {
                    partitions.owner(*id).is_some_and(|owner| partitions.0.seats.has_news(*id, owner))
                };
                due.extend(partitions.count().iter().filter(has_news));
            }
        }
        for id in due {
            if busy.insert(id) {
                under_way.push(sync(id));
            }
        }
    }
}

/// What the owner says to another node about its readers' places.
pub(super) fn serve(
    partitions: &Partitions,
    id: PartitionId,
    from: u64,
    request: &RouteSeatsRequest,
) -> Told<RouteSeatsAnswer> {
    let owner = partitions.owner(id);
    let Some(owner) = owner.filter(|owner| owner.node == partitions.node()) else {
        return Told::NotHere(owner);
    };
    for key in request.leave.iter().take(MAX_SEATS) {
        partitions.desk(id).leave(from, *key);
    }
    let renewed = request.renew.get(..MAX_SEATS).unwrap_or(&request.renew);
    let Ok(unknown) = partitions.desk(id).renew(owner.term, from, renewed) else {
        return Told::NotHere(None);
    };
    let mut entered = Vec::new();
    for seat in request.enter.iter().take(MAX_PER_CALL) {
        let Ok(verdict) = partitions.enter_here(id, owner, from, &get_wanted(seat)) else {
            return Told::NotHere(None);
        };
        entered.push(put_verdict(&verdict));
    }
    Told::Done(RouteSeatsAnswer {
        entered,
        unknown,
        term: owner.term,
    })
}

/// The owner says that a place here is lost. Only the owner says so; an earlier one's word is checked when the place is
/// renewed.
pub(super) fn stolen(partitions: &Partitions, id: PartitionId, from: u64, stolen: RouteStolen) {
    let is_owner = partitions.owner(id).is_some_and(|owner| owner.node == from);
    match stolen.by {
        Some(by) if is_owner => partitions.0.seats.oust(id, stolen.key, Some(get_receiver(by))),
        _ => partitions.0.seats.unknown(id, stolen.key),
    }
}

fn put_wanted(wanted: &Wanted) -> RouteSeat {
    RouteSeat {
        key: wanted.key,
        group: wanted.group.clone(),
        name: wanted.receiver.name.clone(),
        epoch: wanted.receiver.epoch,
        since_term: wanted.since.map(|since| since.term),
        since_node: wanted.since.map_or(0, |since| since.node),
        since_count: wanted.since.map_or(0, |since| since.count),
    }
}

fn get_wanted(seat: &RouteSeat) -> Wanted {
    Wanted {
        key: seat.key,
        group: cut(&seat.group),
        receiver: Receiver {
            name: cut(&seat.name),
            epoch: seat.epoch,
        },
        since: seat.since_term.map(|term| Since {
            term,
            node: seat.since_node,
            count: seat.since_count,
        }),
    }
}

/// Names are for messages; nobody needs long ones.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}

fn put_receiver(receiver: &Receiver) -> RouteReceiver {
    RouteReceiver {
        name: receiver.name.clone(),
        epoch: receiver.epoch,
    }
}

fn get_receiver(receiver: RouteReceiver) -> Receiver {
    Receiver {
        name: cut(&receiver.name),
        epoch: receiver.epoch,
    }
}

fn put_verdict(verdict: &Verdict) -> RouteSeatAnswer {
    use route_seat_answer::Outcome;
    let (outcome, since_term, since_node) = match verdict {
        Verdict::In(since) => (Outcome::SinceCount(since.count), since.term, since.node),
        Verdict::TakenBy(by) => (Outcome::TakenBy(put_receiver(by)), 0, 0),
        Verdict::Crowded => (Outcome::TooMany(true), 0, 0),
    };
    RouteSeatAnswer {
        outcome: Some(outcome),
        since_term,
        since_node,
    }
}

fn get_verdict(answer: RouteSeatAnswer) -> Option<Verdict> {
    use route_seat_answer::Outcome;
    Some(match answer.outcome? {
        Outcome::SinceCount(count) => Verdict::In(Since {
            term: answer.since_term,
            node: answer.since_node,
            count,
        }),
        Outcome::TakenBy(by) => Verdict::TakenBy(get_receiver(by)),
        Outcome::TooMany(_) => Verdict::Crowded,
    })
}
