//! Proposing effects: decisions of the owner, valid in its own leadership alone.

use holdfast_model::NodeId;

use super::{Partition, answer};
use crate::error::AppendError;
use crate::log::record::{
    BatchHeader, BatchWriter, Corrupt, Effect, EntryError, HubEvent, Leadership, MAX_ENTRY_BYTES, PushError,
};
use crate::shared;
use crate::state::GatewayPresence;

impl Partition {
    /// The current leadership of this node, once everything of earlier ones is applied here. The owner decides on the state
    /// that it reads after this call, and proposes the effects with this value.
    ///
    /// # Errors
    /// [`AppendError`]: this node does not own the partition.
    pub async fn leadership(&self) -> Result<Leadership, AppendError> {
        let (term, ()) = self.as_owner(|_| ()).await?;
        Ok(Leadership {
            term,
            node: self.0.node,
        })
    }

    /// Appends effects that were computed in the leadership `owner`, all in one entry, and returns once they are committed
    /// and applied here. In any other leadership they are refused, and have no effect.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Unknown`] they may take effect or not.
    pub async fn propose(&self, owner: Leadership, effects: &[Effect<'_>]) -> Result<(), AppendError> {
        self.propose_with_events(owner, effects, &[]).await
    }

    /// As [`Self::propose`], with events, which precede the effects in the log and are counted only with them.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_with_events(
        &self,
        owner: Leadership,
        effects: &[Effect<'_>],
        events: &[HubEvent<'_, '_>],
    ) -> Result<(), AppendError> {
        let mut writer = BatchWriter::new();
        let events = events.iter().try_for_each(|event| writer.push_event(owner, event));
        let effects = events.and_then(|()| effects.iter().try_for_each(|effect| writer.push_effect(owner, effect)));
        effects.map_err(|error| match error {
            PushError::InvalidEffect(what) => AppendError::Malformed(EntryError::Corrupt(Corrupt { offset: 0, what })),
            _ => AppendError::TooLarge {
                bytes: writer.bytes(),
                limit: MAX_ENTRY_BYTES,
            },
        })?;
        if writer.is_empty() {
            return Ok(());
        }
        if owner.node != self.0.node {
            return Err(AppendError::NotLeader { leader: None });
        }
        let entry = writer.close(BatchHeader::of_owner(self.0.clock.now()));
        let (_, answer) = self.0.group.propose_in_term(owner.term, entry).await?;
        answer::decode(&answer)
    }

    /// The gateways recorded as absent, as of everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`]: this node does not own the partition.
    pub async fn absent_gateways(&self) -> Result<Vec<NodeId>, AppendError> {
        self.0.group.read_index().await?;
        let inner = self.0.shared.lock();
        Ok(inner.state.absent_gateways().iter().collect())
    }

    /// Records in the log that a gateway is absent or present again; returns once that is applied, at once if the log says
    /// so already.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Unknown`] it may be recorded or not.
    pub async fn record_gateway(&self, gateway: NodeId, presence: GatewayPresence) -> Result<(), AppendError> {
        let recorded = |inner: &shared::Inner| inner.state.absent_gateways().presence(gateway);
        let (term, recorded) = self.as_owner(recorded).await?;
        if recorded == presence {
            return Ok(());
        }
        let owner = Leadership {
            term,
            node: self.0.node,
        };
        let effect = match presence {
            GatewayPresence::Absent => Effect::GatewayAbsent { gateway },
            GatewayPresence::Present => Effect::GatewayPresent { gateway },
        };
        self.propose(owner, &[effect]).await
    }
}
