//! "Why can't this device connect?": everything that the hub knows of an identity's connections.
//!
//! The owner of the partition knows the connection, all gateways know refusals. A node that does not answer in time is
//! named in the diagnosis, so that its silence does not look like the absence of attempts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use holdfast_model::{ErrorCode, GenerationId, IdentityId, NodeId, RefusalReason, UnixMillis};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};

use crate::api::audit::AuditRecord;
use crate::api::offered::Offered;
use crate::device_state::{self, ConnectionOrigin};
use crate::downlink::credit::Credit;
use crate::downlink::delivery::{DeliveryKind, DeliveryKinds};
use crate::rpc::codec::{self, QueriedIdentity};
use crate::session_types::{Reach, SessionCertificate, SessionNumber};
use crate::{DeviceHub, Operation, Protocol};

/// Identities whose stored connection is read at once.
const MAX_READS: usize = 32;

/// How long other nodes may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Refusals that are shown, of all gateways together.
const MAX_REFUSALS: usize = 32;

/// Whether an identity is connected, and since when, as the owner of its partition knows it (docs/compatibility.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    /// Connected now.
    pub is_connected: bool,
    /// When that last changed.
    pub updated: Option<UnixMillis>,
    /// When it connected, sent or disconnected last; of what a connected one sends only the first message in
    /// `device_hub.activity_interval` counts.
    pub last_activity: Option<UnixMillis>,
    /// Cloud-to-device messages in its queue; 0 when the owner does not answer.
    pub cloud_messages: u32,
}

/// The certificates above a device's own in its live connection, or in its last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionChain {
    /// Whether it is connected.
    pub is_connected: bool,
    /// When it connected, sent or disconnected last.
    pub last_activity: Option<UnixMillis>,
    /// SHA-256 of each certificate, upwards, the CA last; empty when it had no chain, or none is known.
    pub issuers: Vec<[u8; 32]>,
}

/// A live session.
#[derive(Debug, Clone)]
pub struct LiveSession {
    /// Its number.
    pub number: SessionNumber,
    /// The node that it is connected to.
    pub gateway: NodeId,
    /// The protocol of its connection.
    pub protocol: Protocol,
    /// The client's address; `None` when its gateway's version does not report it.
    pub address: Option<SocketAddr>,
    /// When it began.
    pub since: UnixMillis,
    /// When its token ends, clock skew included, or its certificate, grace included.
    pub expires: Option<UnixMillis>,
    /// The certificate that opened it, if one did.
    pub certificate: Option<SessionCertificate>,
    /// The policy whose token opened it.
    pub policy: Option<String>,
    /// What the device has subscribed to.
    pub receives: DeliveryKinds,
}

/// The last connection of an identity that is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastConnection {
    /// The node that it was connected to.
    pub gateway: NodeId,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's address.
    pub address: SocketAddr,
}

/// A node of the cluster, and whether its knowledge is in the diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueriedNode {
    /// The node.
    pub node: NodeId,
    /// Its name; empty for a node that this replica of the registry does not know.
    pub name: String,
    /// Why it is not; `None`: it has answered.
    pub fault: Option<String>,
}

/// Everything about an identity's connections.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The hub's clock, to be compared with the device's.
    pub hub_time: UnixMillis,
    /// Its live session.
    pub session: Option<LiveSession>,
    /// Its connection state.
    pub connection: ConnectionState,
    /// Whether the owner of its partition has answered; without it the session and the state are not known.
    pub is_connection_known: bool,
    /// Where it was connected last.
    pub last: Option<LastConnection>,
    /// All nodes that may have refused it, by id.
    pub nodes: Vec<QueriedNode>,
    /// Its last refusals, newest last.
    pub refusals: Vec<AuditRecord>,
}

impl DeviceHub {
    /// Whether `identity` is connected, as the owner of its partition knows it; not connected when the owner does not answer.
    pub async fn connection_state(&self, identity: &IdentityId) -> ConnectionState {
        state_of(&self.query_connection(identity).await)
    }

    /// The same for several, in their order.
    pub async fn connection_states(&self, identities: &[&IdentityId]) -> Vec<ConnectionState> {
        self.query_connections(identities).await.iter().map(state_of).collect()
    }

    /// The chains of the live or last connections of several identities, in their order.
    pub async fn chains(&self, identities: &[&IdentityId]) -> Vec<ConnectionChain> {
        let found = self.query_connections(identities).await;
        found.iter().map(chain_of).collect()
    }

    /// Everything that is known of `identity`'s connections.
    pub async fn diagnose(&self, identity: &IdentityId) -> Diagnosis {
        let name = identity.to_string();
        let (found, (refusals, nodes)) = tokio::join!(self.connection_at_owner(identity), self.refusals(&name));
        let is_connection_known = found.is_some();
        let found = found.unwrap_or_default();
        let last = ConnectionOrigin::decode(found.last_gateway, found.last_protocol, &found.last_address);
        Diagnosis {
            is_connection_known,
            nodes,
            last: last.map(|last| LastConnection {
                gateway: last.gateway,
                protocol: last.protocol,
                address: last.address,
            }),
            hub_time: self.parts.clock.now(),
            connection: state_of(&found),
            session: found.session.and_then(|item| {
                Some(LiveSession {
                    number: codec::decode_number(&item),
                    gateway: NodeId(found.gateway),
                    protocol: Protocol::from_number(item.protocol)?,
                    address: item.address.parse().ok(),
                    since: UnixMillis(item.since_ms),
                    expires: (item.expires_ms > 0).then_some(UnixMillis(item.expires_ms)),
                    certificate: item
                        .certificate
                        .as_ref()
                        .and_then(|shown| codec::decode_certificate(shown).ok()),
                    policy: (!item.policy.is_empty()).then_some(item.policy),
                    receives: codec::decode_counters(item.credit.as_ref()).taken_kinds(),
                })
            }),
            refusals,
        }
    }

    /// How many devices are connected to the hub, over all owners that answer.
    pub async fn connected_device_count(&self) -> u64 {
        let request = Request::Count(proto::SessionCount {});
        let answers = self.call_nodes(self.other_owners(), request, CALL_TIMEOUT).await;
        let remote_sessions = answers.into_iter().map(|answer| match answer {
            Answer::Count(count) => count.devices,
            _ => 0,
        });
        self.ownership.count().0 + remote_sessions.sum::<u64>()
    }

    /// The owner's knowledge of one identity; `None` when it does not answer, or is not known.
    async fn connection_at_owner(&self, identity: &IdentityId) -> Option<proto::SessionFound> {
        let owner = self.parts.partitions.owner(self.partition_of(identity))?.node;
        let asked = (identity.clone(), self.known_generation(identity));
        if owner == self.parts.node {
            return self.find_connections(vec![asked]).await.pop();
        }
        let request = Request::Query(proto::SessionQuery {
            identities: vec![codec::encode_queried(&asked)],
        });
        match self.call_node(owner, 0, request, CALL_TIMEOUT).await {
            Ok(Answer::Query(mut answer)) => answer.found.pop(),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(node = %owner, %error, "the owner did not answer about a connection; the diagnosis says so");
                None
            }
        }
    }

    async fn query_connection(&self, identity: &IdentityId) -> proto::SessionFound {
        self.query_connections(&[identity]).await.pop().unwrap_or_default()
    }

    /// Queries all owners at once, each for its own identities; in the order of `identities`.
    async fn query_connections(&self, identities: &[&IdentityId]) -> Vec<proto::SessionFound> {
        let mut found = vec![proto::SessionFound::default(); identities.len()];
        let mut by_owner: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (index, identity) in identities.iter().enumerate() {
            let owner = self.parts.partitions.owner(self.partition_of(identity));
            let node = owner.map_or(self.parts.node, |owner| owner.node);
            by_owner.entry(node).or_default().push(index);
        }
        let asked = |indexes: &[usize]| -> Vec<QueriedIdentity> {
            let asked = indexes.iter().map(|index| identities[*index]);
            asked
                .map(|identity| (identity.clone(), self.known_generation(identity)))
                .collect()
        };
        if let Some(here) = by_owner.remove(&self.parts.node) {
            let connections = self.find_connections(asked(&here)).await;
            for (index, connection) in here.into_iter().zip(connections) {
                found[index] = connection;
            }
        }
        let calls = by_owner.iter().flat_map(|(node, indexes)| {
            let asked = &asked;
            indexes.chunks(codec::MAX_ITEMS).map(move |part| async move {
                let request = Request::Query(proto::SessionQuery {
                    identities: asked(part).iter().map(codec::encode_queried).collect(),
                });
                (*node, part, self.call_node(*node, 0, request, CALL_TIMEOUT).await)
            })
        });
        for (node, part, answer) in join_all(calls).await {
            match answer {
                Ok(Answer::Query(answer)) => {
                    for (index, one) in part.iter().zip(answer.found) {
                        found[*index] = one;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%node, %error, "an owner did not answer about connections; they are shown as not connected")
                }
            }
        }
        found
    }

    /// The identity's generation in this node's registry replica.
    pub(crate) fn known_generation(&self, identity: &IdentityId) -> Option<GenerationId> {
        let registered = self.parts.registry.identity(identity).ok().flatten()?;
        Some(registered.generation.clone())
    }

    /// The connections of identities, in their order, as this node knows them as the owner.
    pub(crate) async fn find_connections(&self, identities: Vec<QueriedIdentity>) -> Vec<proto::SessionFound> {
        let found = identities
            .into_iter()
            .map(|(identity, generation)| async move { self.find_connection(&identity, generation).await });
        stream::iter(found).buffered(MAX_READS).collect().await
    }

    pub(crate) async fn find_connection(
        &self,
        identity: &IdentityId,
        generation: Option<GenerationId>,
    ) -> proto::SessionFound {
        let generation = generation.or_else(|| self.known_generation(identity));
        let index = self.cloud_queues.partition(self.partition_of(identity));
        let depth = generation
            .as_ref()
            .map_or(0, |generation| index.lock().depth(identity, generation));
        proto::SessionFound {
            cloud_messages: u32::try_from(depth).unwrap_or(u32::MAX),
            ..self.find_session(identity, generation).await
        }
    }

    async fn find_session(&self, identity: &IdentityId, generation: Option<GenerationId>) -> proto::SessionFound {
        let partition = self.partition_of(identity);
        let row = self.ownership.row(partition, identity);
        // A session of an earlier generation is about to be closed.
        let row = row.filter(|row| generation.as_ref().is_none_or(|known| *known == row.info.generation));
        if let Some(row) = row {
            let takes = |kind: &DeliveryKind| self.ownership.reach(partition, identity, *kind) == Reach::Open;
            let taken = DeliveryKind::ALL.into_iter().filter(takes);
            let credit = Credit {
                kinds: taken.fold(DeliveryKinds::default(), DeliveryKinds::with).bits(),
                ..Credit::default()
            };
            return proto::SessionFound {
                session: Some(codec::encode_item(&row.info, row.address.key, Some(row.number), credit)),
                gateway: row.address.gateway.get(),
                updated_ms: row.info.since.0,
                last_activity_ms: row.last_activity.0,
                ..proto::SessionFound::default()
            };
        }
        let stored = match generation {
            Some(generation) => self.stored_connection(partition, identity, &generation).await,
            None => None,
        };
        // Without a session it is not connected, also if its end has not been recorded.
        stored.map_or_else(proto::SessionFound::default, |stored| proto::SessionFound {
            updated_ms: stored.changed.0,
            last_activity_ms: stored.last_activity.0,
            last_gateway: stored.origin.map_or(0, |origin| origin.gateway.get()),
            last_protocol: stored.origin.map_or(0, |origin| origin.protocol.number()),
            last_address: stored
                .origin
                .map(|origin| origin.address.to_string())
                .unwrap_or_default(),
            last_issuers: device_state::encode_issuers(stored.issuers.as_deref()),
            ..proto::SessionFound::default()
        })
    }

    /// The last refusals at all gateways, newest last, and which of them have answered.
    async fn refusals(&self, identity: &str) -> (Vec<AuditRecord>, Vec<QueriedNode>) {
        let request = Request::Refusals(proto::SessionRefusals {
            identity: identity.to_owned(),
        });
        let here = self.parts.node;
        let calls = self.members().into_iter().filter(|node| *node != here).map(|node| {
            let request = request.clone();
            async move { (node, self.call_node(node, 0, request, CALL_TIMEOUT).await) }
        });
        let mut refusals = self.audit.refusals_of(identity);
        for refusal in &mut refusals {
            refusal.node = Some(here);
        }
        let mut nodes = vec![self.queried(here, None)];
        for (node, answer) in join_all(calls).await {
            let fault = match answer {
                Ok(Answer::Refusals(answer)) => {
                    let theirs = answer.refusals.iter().take(MAX_REFUSALS);
                    refusals.extend(theirs.filter_map(|refusal| decode_refusal(node, refusal)));
                    None
                }
                Ok(_) => Some("an answer that this version does not know".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            nodes.push(self.queried(node, fault));
        }
        nodes.sort_by_key(|queried| queried.node);
        refusals.sort_by_key(|refusal| refusal.time);
        let above = refusals.len().saturating_sub(MAX_REFUSALS);
        refusals.drain(..above);
        (refusals, nodes)
    }

    pub(crate) fn queried(&self, node: NodeId, fault: Option<String>) -> QueriedNode {
        let view = self.parts.registry.cluster();
        let name = view.nodes.values().find(|info| info.id == node);
        QueriedNode {
            node,
            name: name.map(|info| info.name.clone()).unwrap_or_default(),
            fault,
        }
    }

    /// The last refusals at this gateway.
    pub(crate) fn refusals_here(&self, identity: &str) -> Vec<proto::SessionRefusal> {
        let refusals = self.audit.refusals_of(identity);
        let refusals = refusals.iter().map(|refusal| proto::SessionRefusal {
            time_ms: refusal.time.0,
            operation: refusal.operation.number(),
            code: refusal.code.number(),
            reason: refusal.reason.as_str().to_owned(),
            protocol: refusal.protocol.number(),
            address: refusal.address.to_string(),
            detail: refusal.detail.as_deref().unwrap_or_default().to_owned(),
            offered: refusal.offered.as_deref().map(Offered::encode),
        });
        refusals.collect()
    }
}

fn chain_of(found: &proto::SessionFound) -> ConnectionChain {
    let live = found.session.as_ref().and_then(|item| codec::decode_info(item).ok());
    let issuers = match &live {
        Some(info) => info.issuers(),
        None => device_state::decode_issuers(&found.last_issuers),
    };
    ConnectionChain {
        is_connected: found.session.is_some(),
        last_activity: known_time(found.last_activity_ms),
        issuers: issuers.map(|issuers| issuers.to_vec()).unwrap_or_default(),
    }
}

pub(crate) fn state_of(found: &proto::SessionFound) -> ConnectionState {
    ConnectionState {
        is_connected: found.session.is_some(),
        updated: known_time(found.updated_ms),
        last_activity: known_time(found.last_activity_ms),
        cloud_messages: found.cloud_messages,
    }
}

fn known_time(ms: u64) -> Option<UnixMillis> {
    (ms > 0).then_some(UnixMillis(ms))
}

/// A refusal of another node; one that this version does not know is left out.
fn decode_refusal(node: NodeId, refusal: &proto::SessionRefusal) -> Option<AuditRecord> {
    let reason = RefusalReason::ALL
        .iter()
        .find(|reason| reason.as_str() == refusal.reason)?;
    Some(AuditRecord {
        time: UnixMillis(refusal.time_ms),
        operation: Operation::from_number(refusal.operation)?,
        code: ErrorCode::from_number(refusal.code)?,
        reason: *reason,
        protocol: Protocol::from_number(refusal.protocol)?,
        address: refusal.address.parse::<SocketAddr>().ok()?,
        detail: (!refusal.detail.is_empty()).then(|| refusal.detail.as_str().into()),
        offered: refusal.offered.as_ref().and_then(Offered::decode).map(Arc::new),
        node: Some(node),
    })
}
