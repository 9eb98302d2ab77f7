//! Questions to the owner of a partition, or to a replica.

use std::time::Duration;

use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::{PartitionId, SequenceNumber, UnixMillis};
use holdfast_partition::record::StreamId;
use holdfast_partition::{AppendError, PartitionStatus};
use holdfast_proto::cluster::v1::{RouteLastBatchAnswer, RouteLastBatchRequest, RouteStatus};
use prost::Message;
use tokio::time::Instant;

use super::owners::Owner;
use super::wire::{self, Kind, Told};
use super::{Partitions, RouteError, serve};

/// How long one node may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);
/// How long a question goes from owner to owner before it fails.
pub(super) const QUESTION_PATIENCE: Duration = Duration::from_secs(8);
/// Between two tries while nobody else is known to own the partition.
pub(super) const RETRY: Duration = Duration::from_millis(250);

impl Partitions {
    /// What can be read, as of everything that was committed before the call. A replica here that cannot reach the owner
    /// tells what it knows.
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn status(&self, id: PartitionId) -> Result<PartitionStatus, RouteError> {
        if let Some(partition) = self.local(id) {
            serve::caught_up(&partition).await;
            return Ok(partition.status());
        }
        let told: RouteStatus = self.ask_owner(id, Kind::Status, &()).await?;
        Ok(get_status(&told))
    }

    /// The last batch of a stream that is counted, 0 when none is: as of everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn last_batch(&self, id: PartitionId, stream: StreamId) -> Result<u64, AppendError> {
        if let Some(partition) = self.0.owners.owned(id) {
            return partition.last_batch(&stream).await;
        }
        let request = RouteLastBatchRequest {
            gateway_node: stream.gateway_node,
            incarnation: stream.incarnation,
            core: stream.core,
        };
        let told: Result<RouteLastBatchAnswer, _> = self.ask_owner(id, Kind::LastBatch, &request).await;
        let told = told.map_err(|_| AppendError::NotLeader { leader: None })?;
        Ok(told.batch_number)
    }

    /// Asks owner after owner until one answers.
    pub(super) async fn ask_owner<M: Message + Default>(
        &self,
        id: PartitionId,
        kind: Kind,
        request: &impl Message,
    ) -> Result<M, RouteError> {
        let give_up = Instant::now() + QUESTION_PATIENCE;
        let mut owner = self.owner(id);
        loop {
            let remote = owner.filter(|owner| owner.node != self.node());
            if let Some(owner) = remote
                && let Some(told) = self.ask_node(owner, id, kind, request).await
            {
                return Ok(told);
            }
            if Instant::now() >= give_up {
                return Err(RouteError::NoOwner(id));
            }
            owner = self.owner_after(id, owner, RETRY).await;
        }
    }

    /// Asks one node; `None` when it cannot say.
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
            body: wire::request(kind, request),
            timeout: ANSWER_PATIENCE,
        };
        let answer = self.0.transport.call(owner.node, call).await;
        let told =
            answer.and_then(|body| Told::decode(body).map_err(|error| CallError::Refused(error.to_string().into())));
        match told {
            Ok(Told::Done(message)) => Some(message),
            Ok(Told::NotHere(told)) => {
                self.not_here(id, owner, told);
                None
            }
            Ok(Told::NotNow) => None,
            Err(error) => {
                tracing::debug!(partition = id.0, node = owner.node, ?kind, %error, "an owner does not answer");
                None
            }
        }
    }
}

pub(super) fn get_status(told: &RouteStatus) -> PartitionStatus {
    PartitionStatus {
        begin: SequenceNumber(told.begin),
        next: SequenceNumber(told.next),
        last_enqueued: UnixMillis(told.last_enqueued_ms),
        retained_bytes: told.retained_bytes,
    }
}
