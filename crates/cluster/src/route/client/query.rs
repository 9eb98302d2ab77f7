//! Queries to the owner of a partition, or to a replica.

use std::time::Duration;

use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::PartitionId;
use holdfast_partition::record::StreamId;
use holdfast_partition::{AppendError, PartitionStatus};
use holdfast_proto::cluster::v1::{RouteLastBatchAnswer, RouteLastBatchRequest, RouteStatus};
use prost::Message;
use tokio::time::Instant;

use crate::route::owner_table::{OWNER_RETRY_BACKOFF, Owner};
use crate::route::protocol::messages::{self, Kind, Reply};
use crate::route::{Partitions, RouteError, replica};

/// Timeout of one node's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Timeout of a query over all owners that are asked.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

impl Partitions {
    /// The readable events, including everything that was committed before the call. A local replica that cannot reach the
    /// owner reports its own state.
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn status(&self, id: PartitionId) -> Result<PartitionStatus, RouteError> {
        if let Some(partition) = self.local(id) {
            replica::catch_up(&partition).await;
            return Ok(partition.status());
        }
        let status: RouteStatus = self.ask_owner(id, Kind::Status, &()).await?;
        Ok(messages::decode_status(&status))
    }

    /// The last batch of a stream that is counted, 0 if none is; includes everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn last_batch(&self, id: PartitionId, stream: StreamId) -> Result<u64, AppendError> {
        if let Some(partition) = self.0.owners.owned(id) {
            return partition.last_batch(&stream).await;
        }
        let request = RouteLastBatchRequest {
            gateway_node: stream.gateway_node.get(),
            incarnation: stream.incarnation.get(),
            core: stream.core,
        };
        let answer: Result<RouteLastBatchAnswer, _> = self.ask_owner(id, Kind::LastBatch, &request).await;
        let answer = answer.map_err(|_| AppendError::NotLeader { leader: None })?;
        Ok(answer.batch_number)
    }

    /// Asks owner after owner until one answers.
    pub(super) async fn ask_owner<M: Message + Default>(
        &self,
        id: PartitionId,
        kind: Kind,
        request: &impl Message,
    ) -> Result<M, RouteError> {
        let give_up = Instant::now() + QUERY_TIMEOUT;
        let mut owner = self.owner(id);
        loop {
            let remote = owner.filter(|owner| owner.node != self.node());
            if let Some(owner) = remote
                && let Some(answer) = self.ask_node(owner, id, kind, request).await
            {
                return Ok(answer);
            }
            if Instant::now() >= give_up {
                return Err(RouteError::NoOwner(id));
            }
            owner = self.owner_after(id, owner, OWNER_RETRY_BACKOFF).await;
        }
    }

    /// Asks one node; returns `None` if it cannot answer.
    pub(super) async fn ask_node<M: Message + Default>(
        &self,
        owner: Owner,
        id: PartitionId,
        kind: Kind,
        request: &impl Message,
    ) -> Option<M> {
        let call = Call {
            service: Service::Partition,
            target: u32::from(id.0),
            body: messages::encode_request(kind, request),
            timeout: ANSWER_TIMEOUT,
        };
        let answer = self.0.transport.call(owner.node, call).await;
        let reply =
            answer.and_then(|body| Reply::decode(body).map_err(|error| CallError::Refused(error.to_string().into())));
        match reply {
            Ok(Reply::Done(message)) => Some(message),
            Ok(Reply::NotHere(named)) => {
                self.record_not_owner(id, owner, named);
                None
            }
            Ok(Reply::NotNow) => None,
            Err(error) => {
                tracing::debug!(partition = id.0, node = %owner.node, ?kind, %error, "a query to an owner failed");
                None
            }
        }
    }
}
