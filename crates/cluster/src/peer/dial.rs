//! Opening a connection: TCP, TLS, hello; then the gRPC methods on it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, Purpose};
use http::uri::PathAndQuery;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::{Request, Status, Streaming};

use super::codec::{Batch, Frames, Messages};
use super::frame::MAX_FRAME_BYTES;
use super::hello::{self, MAX_HELLO};
use super::state::Shared;
use super::wire::{self, Opened, Sender, Use};
use super::{service, tls};

/// A connection on which both sides have agreed.
pub(crate) struct Dialed {
    pub(crate) opened: Opened,
    pub(crate) answer: HelloAnswer,
    pub(crate) certificate_ends: Option<SystemTime>,
}

/// The gRPC client of a connection.
fn grpc(sender: &Sender) -> Grpc<Sender> {
    // The authority that all nodes share; TLS has checked it.
    let origin = http::Uri::from_static("https://peer.holdfast");
    Grpc::with_origin(sender.clone(), origin)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
}

/// Connects to `address` for `purpose`, and makes sure that node `to` answers there (0 = whoever does). The time is the
/// caller's to bound.
pub(crate) async fn dial(shared: &Shared, address: &str, purpose: Purpose, to: u64) -> Result<Dialed, Arc<str>> {
    let used = match purpose {
        Purpose::Streams => Use::Streams,
        _ => Use::Calls,
    };
    let opened = wire::open(address, &shared.tls, used, shared.config.streams).await?;
    let ours = shared.identity.read().clone();
    let hello = hello::hello(&ours, shared.instance, purpose, to);
    let answer = introduce(&opened.sender, hello)
        .await
        .map_err(|status| -> Arc<str> { format!("{address}: {}", words(&status)).into() })?;
    let verdict = hello::accept(&ours, to, &answer).and_then(|_| {
        let nodes = opened.certificate.as_ref().map(tls::nodes_of).unwrap_or_default();
        let registered = shared.registered_name(answer.node);
        let unnamed = shared.config.unnamed();
        hello::check_certificate(&nodes, unnamed, answer.node, &answer.name, registered.as_deref())
    });
    if let Err(refused) = verdict {
        shared.metrics.refused(hello::label(refused.why));
        return Err(format!("{address}: {}", refused.text).into());
    }
    let certificate_ends = opened.certificate.as_ref().and_then(tls::not_after);
    Ok(Dialed {
        opened,
        answer,
        certificate_ends,
    })
}

async fn introduce(sender: &Sender, hello: Hello) -> Result<HelloAnswer, Status> {
    let mut grpc = grpc(sender).max_decoding_message_size(MAX_HELLO);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = grpc
        .unary(
            Request::new(hello),
            PathAndQuery::from_static(service::HELLO),
            Messages::<Hello, HelloAnswer>::default(),
        )
        .await?;
    Ok(answer.into_inner())
}

/// Starts one of the methods that exchange frames.
pub(crate) async fn exchange<S>(sender: &Sender, method: &'static str, out: S) -> Result<Streaming<Bytes>, Status>
where
    S: Stream<Item = Batch> + Send + 'static,
{
    let mut grpc = grpc(sender);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = grpc
        .streaming(Request::new(out), PathAndQuery::from_static(method), Frames)
        .await?;
    Ok(answer.into_inner())
}

/// What a status says, with its causes.
pub(crate) fn words(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(wire::explain);
    match cause {
        Some(cause) => cause,
        None => status
            .message()
            .chars()
            .filter(|c| !c.is_control())
            .take(1024)
            .collect(),
    }
}
