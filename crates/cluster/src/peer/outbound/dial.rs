//! Opens a connection: TCP, TLS, hello.

use std::sync::Arc;
use std::time::SystemTime;

use holdfast_model::NodeId;
use holdfast_proto::cluster::v1::{HelloAnswer, HelloRefusal, Purpose};

use crate::peer::peer_table::PeerTable;
use crate::peer::protocol::hello;
use crate::peer::transport::grpc::exchange_hello;
use crate::peer::transport::http2::{self, ClientConnection, ConnectionKind};
use crate::peer::transport::tls;

/// An open connection whose hello both nodes have accepted.
pub(crate) struct Dialed {
    pub(crate) connection: ClientConnection,
    pub(crate) answer: HelloAnswer,
    pub(crate) certificate_ends: Option<SystemTime>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct NotDialed {
    pub(crate) reason: Arc<str>,
    /// A node of this CA has answered that it is not a member of a cluster.
    pub(crate) without_cluster: bool,
}

impl From<NotDialed> for Arc<str> {
    fn from(not: NotDialed) -> Self {
        not.reason
    }
}

impl From<Arc<str>> for NotDialed {
    fn from(reason: Arc<str>) -> Self {
        Self {
            reason,
            without_cluster: false,
        }
    }
}

/// Connects to `address` for `purpose`, and checks that node `to` (0: any node) answers there. The caller bounds the time.
pub(crate) async fn dial(table: &PeerTable, address: &str, purpose: Purpose, to: NodeId) -> Result<Dialed, NotDialed> {
    let kind = match purpose {
        Purpose::Streams => ConnectionKind::Streams,
        _ => ConnectionKind::Calls,
    };
    let connection = http2::connect(address, &table.tls, kind, table.config.streams).await?;
    let ours = table.identity.read().clone();
    let hello = hello::hello(&ours, table.instance, purpose, to);
    let answer = exchange_hello(&connection.sender, hello)
        .await
        .map_err(|status| -> Arc<str> { format!("{address}: {}", connection.error_text(&status)).into() })?;
    let verdict = hello::check_answer(&ours, to, &answer).and_then(|_| {
        let nodes = connection.certificate.as_ref().map(tls::nodes_of).unwrap_or_default();
        let registered = table.registered_name(NodeId(answer.node));
        let unnamed = table.config.unnamed_certificates();
        hello::check_certificate(
            &nodes,
            unnamed,
            NodeId(answer.node),
            &answer.name,
            registered.as_deref(),
        )
    });
    if let Err(refused) = verdict {
        table.metrics.refused(hello::label(refused.reason));
        if answer.refusal() == HelloRefusal::Removed {
            table.own_removal.send_replace(true);
        }
        return Err(NotDialed {
            reason: format!("{address}: {}", refused.text).into(),
            without_cluster: answer.cluster.is_empty() && answer.refusal() == HelloRefusal::Cluster,
        });
    }
    let certificate_ends = connection.certificate.as_ref().and_then(tls::not_after);
    Ok(Dialed {
        connection,
        answer,
        certificate_ends,
    })
}
