//! The links over which gateways may append to a partition.
//!
//! Why: the owner of a partition knows which gateways have reported all their sessions, and decides so far above the log.
//! It publishes its decision here, and an append compares its batch with it: nothing below calls up.
//! Invariants: links belong to one term, and a batch that they admit is proposed in that term or not at all; a gateway
//! has at most one open link.
//! Not here: when links open and close (`device-hub`).

use std::collections::BTreeMap;

use holdfast_model::{Incarnation, LinkId, NodeId, Term};
use holdfast_tasks::sync::RwLock;

use crate::error::AppendError;
use crate::log::record::StreamId;

/// The open links of one partition; see the module. Until [`Self::begin_term`], every batch is admitted.
#[derive(Debug, Default)]
pub struct OpenLinks(RwLock<Option<TermLinks>>);

#[derive(Debug)]
struct TermLinks {
    term: Term,
    /// By gateway: its incarnation and its link.
    open: BTreeMap<NodeId, (Incarnation, LinkId)>,
}

/// The gateway that sends a batch, and the link over which it does.
#[derive(Debug, Clone, Copy)]
pub struct SenderLink {
    /// The node.
    pub gateway: NodeId,
    /// The link that was open when the batch was sent.
    pub link: LinkId,
}

impl OpenLinks {
    /// A term of ownership begins: no link is open.
    pub fn begin_term(&self, term: Term) {
        let open = BTreeMap::new();
        *self.0.write() = Some(TermLinks { term, open });
    }

    /// Opens a gateway's link in place of its earlier one.
    pub fn open(&self, gateway: NodeId, incarnation: Incarnation, link: LinkId) {
        if let Some(links) = &mut *self.0.write() {
            links.open.insert(gateway, (incarnation, link));
        }
    }

    /// Closes a gateway's link.
    pub fn close(&self, gateway: NodeId) {
        if let Some(links) = &mut *self.0.write() {
            links.open.remove(&gateway);
        }
    }

    /// The term in which a batch of `stream` may be proposed that was sent over `link`; `None` = in any.
    ///
    /// # Errors
    /// [`AppendError::Refused`]: the link is not the open one.
    pub fn admit(&self, stream: &StreamId, link: LinkId) -> Result<Option<Term>, AppendError> {
        let links = self.0.read();
        let Some(links) = &*links else { return Ok(None) };
        match links.open.get(&stream.gateway_node) {
            Some(open) if *open == (stream.incarnation, link) => Ok(Some(links.term)),
            _ => Err(AppendError::Refused),
        }
    }
}
