//! What other nodes ask of this one: as the owner of partitions, and as the gateway of sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::transport::{Answer as Answering, CallError, Handler};
use holdfast_model::{IdentityId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_attached::Outcome;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};

use crate::DeviceHub;
use crate::owner::{Entered, Item, Standing};
use crate::session::CloseReason;
use crate::sessions::{Address, Caller, Facts, NotHere, SessionNumber};
use crate::wire::{self, refused};

/// The longest time for which a call may wait here.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// For [`Service::Session`](holdfast_cluster::transport::Service::Session) of the node's dispatch.
impl Handler for DeviceHub {
    fn call(&self, from: u64, target: u32, body: Bytes) -> Answering {
        let hub = self.me.upgrade();
        Box::pin(async move {
            let hub = hub.ok_or_else(|| refused("the node is stopping"))?;
            let request: proto::SessionRequest = wire::decode(&body)?;
            drop(body);
            let answer = Asked {
                hub,
                gateway: from,
                life: request.life,
            }
            .answer(target, request.request)
            .await?;
            Ok(wire::encode(&proto::SessionAnswer { answer: Some(answer) }))
        })
    }
}

/// Who asks.
struct Asked {
    hub: Arc<DeviceHub>,
    gateway: u64,
    life: u64,
}

impl Asked {
    async fn answer(self, target: u32, request: Option<Request>) -> Result<Answer, CallError> {
        let request = request.ok_or_else(|| refused("a request that this version does not know; update this node"))?;
        Ok(match request {
            Request::Sync(sync) => self.sync(self.partition(target)?, &sync).await?,
            Request::Changes(changes) => self.changes(self.partition(target)?, &changes)?,
            Request::Settle(settle) => self.settle(self.partition(target)?, &settle).await?,
            Request::KeepAlive(keep_alive) => self.keep_alive(&keep_alive)?,
            Request::Close(close) => self.close(self.partition(target)?, &close).await?,
            Request::Look(look) => {
                wire::check_count(look.identities.len())?;
                let looked = look.identities.iter().map(|asked| {
                    let identity = wire::identity(&asked.device, &asked.module)?;
                    Ok::<_, CallError>(self.hub.look(&identity))
                });
                let looked = looked.collect::<Result<_, _>>()?;
                Answer::Look(proto::SessionLookAnswer { looked })
            }
            Request::Count(_) => {
                let (devices, sessions) = self.hub.owners.count();
                Answer::Count(proto::SessionCountAnswer { devices, sessions })
            }
            Request::Refusals(refusals) => Answer::Refusals(proto::SessionRefusalsAnswer {
                refusals: self.hub.refusals_here(wire::text(&refusals.identity)?),
            }),
        })
    }

    fn partition(&self, target: u32) -> Result<PartitionId, CallError> {
        let count = self.hub.parts.partitions.count().get();
        let id = u16::try_from(target).ok().filter(|id| *id < count);
        id.map(PartitionId)
            .ok_or_else(|| refused(&format!("there is no partition {target}; the hub has {count}")))
    }

    fn caller(&self, link: u64) -> Caller {
        Caller {
            gateway: self.gateway,
            life: self.life,
            link,
        }
    }

    fn address(&self, key: u64) -> Address {
        Address {
            gateway: self.gateway,
            life: self.life,
            key,
        }
    }

    async fn sync(&self, partition: PartitionId, sync: &proto::SessionSync) -> Result<Answer, CallError> {
        wire::check_count(sync.items.len())?;
        let mut items = Vec::with_capacity(sync.items.len());
        let mut lost = Vec::new();
        for item in &sync.items {
            let facts = wire::facts(item)?;
            if self.hub.is_revoked(&facts, sync.registry_index) {
                lost.push(proto::SessionLost {
                    key: item.key,
                    revoked: true,
                });
                continue;
            }
            let number = wire::number(item);
            items.push(Item {
                facts,
                key: item.key,
                number,
            });
        }
        if sync.first && !self.hub.learn_away(partition, sync.term).await {
            return Ok(wire::not_here(NotHere::NotOwner));
        }
        let caller = self.caller(sync.link);
        let members = || self.hub.members();
        let synced = self
            .hub
            .owners
            .sync(partition, sync.term, caller, (sync.first, sync.last), items, members);
        let synced = match synced {
            Ok(synced) => synced,
            Err(cause) => return Ok(wire::not_here(cause)),
        };
        lost.extend(
            synced
                .lost
                .into_iter()
                .map(|key| proto::SessionLost { key, revoked: false }),
        );
        self.hub.close_losers(partition, sync.term, synced.displaced);
        if synced.is_back {
            self.hub.write_marks(partition, sync.term, Vec::new());
        }
        let mut granted = self.hub.owners.grant(partition, sync.term);
        if sync.last && granted.is_zero() {
            // The first that this node hears of its reign may be a gateway.
            self.hub.confirm_own(partition, sync.term).await;
            granted = self.hub.owners.grant(partition, sync.term);
        }
        Ok(Answer::Sync(proto::SessionSyncAnswer {
            lost,
            granted_ms: millis(granted),
        }))
    }

    fn changes(&self, partition: PartitionId, changes: &proto::SessionChanges) -> Result<Answer, CallError> {
        wire::check_count(changes.attach.len())?;
        wire::check_count(changes.detach.len())?;
        let caller = self.caller(changes.link);
        let mut attached = Vec::with_capacity(changes.attach.len());
        for item in &changes.attach {
            let facts = wire::facts(item)?;
            if self.hub.is_revoked(&facts, changes.registry_index) {
                attached.push(said(Outcome::Revoked, None));
                continue;
            }
            match self
                .hub
                .owners
                .attach(partition, changes.term, caller, &facts, item.key)
            {
                Ok(Entered::Ready(number)) => attached.push(said(Outcome::Ready, Some(number))),
                Ok(Entered::Settling(number)) => attached.push(said(Outcome::Settling, Some(number))),
                Ok(Entered::TakesOver(number, displaced)) => {
                    let (term, address) = (changes.term, self.address(item.key));
                    self.hub.take_over(partition, term, &facts.identity, address, displaced);
                    attached.push(said(Outcome::Settling, Some(number)));
                }
                Err(NotHere::Busy) => attached.push(said(Outcome::Busy, None)),
                Err(cause) => return Ok(wire::not_here(cause)),
            }
        }
        for ended in &changes.detach {
            let identity = wire::identity(&ended.device, &ended.module)?;
            if self
                .hub
                .owners
                .detach(partition, changes.term, caller, &identity, ended.key)
            {
                self.hub.recent.disconnected(&identity, self.hub.parts.clock.now());
            }
        }
        Ok(Answer::Changes(proto::SessionChangesAnswer { attached }))
    }

    async fn settle(&self, partition: PartitionId, settle: &proto::SessionSettle) -> Result<Answer, CallError> {
        let (identity, key) = session(settle.session.as_ref())?;
        if self.hub.owners.term(partition) != Some(settle.term) {
            return Ok(wire::not_here(NotHere::NotOwner));
        }
        let standing = self
            .hub
            .stands(
                partition,
                settle.term,
                &identity,
                self.address(key),
                wait(settle.wait_ms),
            )
            .await;
        // A reign that has ended meanwhile knows nothing of the session.
        if self.hub.owners.term(partition) != Some(settle.term) {
            return Ok(wire::not_here(NotHere::NotOwner));
        }
        let outcome = match standing {
            Standing::Ready => proto::session_settle_answer::Outcome::Ready,
            Standing::Settling => proto::session_settle_answer::Outcome::Settling,
            Standing::Gone => proto::session_settle_answer::Outcome::Gone,
        };
        Ok(Answer::Settle(proto::SessionSettleAnswer {
            outcome: outcome.into(),
        }))
    }

    fn keep_alive(&self, keep_alive: &proto::SessionKeepAlive) -> Result<Answer, CallError> {
        wire::check_count(keep_alive.links.len())?;
        let mut granted_ms = Vec::with_capacity(keep_alive.links.len());
        for link in &keep_alive.links {
            let partition = self.partition(link.partition)?;
            let granted = self
                .hub
                .owners
                .renew(partition, link.term, self.caller(link.link), link.sessions);
            // 0 would say that the link is lost.
            granted_ms.push(granted.map_or(0, |granted| millis(granted).max(1)));
        }
        Ok(Answer::KeepAlive(proto::SessionKeepAliveAnswer { granted_ms }))
    }

    async fn close(&self, partition: PartitionId, close: &proto::SessionClose) -> Result<Answer, CallError> {
        let (identity, key) = session(close.session.as_ref())?;
        // What an earlier life had under way is gone with it.
        let drained = close.gateway_life != self.hub.parts.incarnation || {
            let reason = match close.revoked {
                true => CloseReason::Revoked,
                false => CloseReason::TakenOver,
            };
            self.hub
                .close_here(partition, &identity, key, reason, wait(close.wait_ms))
                .await
        };
        Ok(Answer::Close(proto::SessionCloseAnswer { drained }))
    }
}

impl DeviceHub {
    /// Whether the identity is certainly not what it was when a gateway looked, whose replica was at `registry_index`.
    fn is_revoked(&self, facts: &Facts, registry_index: u64) -> bool {
        // A replica that is behind the gateway's cannot tell.
        self.parts.registry.group().applied_index() >= registry_index && !self.may_go_on(facts)
    }
}

fn said(outcome: Outcome, number: Option<SessionNumber>) -> proto::SessionAttached {
    proto::SessionAttached {
        outcome: outcome.into(),
        number_term: number.map_or(0, |number| number.term),
        number_node: number.map_or(0, |number| number.node),
        number_counter: number.map_or(0, |number| number.counter),
    }
}

fn session(session: Option<&proto::SessionEnded>) -> Result<(IdentityId, u64), CallError> {
    let session = session.ok_or_else(|| refused("no session is named"))?;
    Ok((wire::identity(&session.device, &session.module)?, session.key))
}

fn wait(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(MAX_WAIT)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
