//! The gRPC methods of a node: their paths, and the client side of each.

use bytes::Bytes;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer};
use http::uri::PathAndQuery;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::{Request, Status, Streaming};

use super::codec::{Frames, Messages};
use super::http2::Sender;
use crate::peer::protocol::frame::{Batch, MAX_FRAME_BYTES};
use crate::peer::protocol::hello::MAX_HELLO;

pub(crate) const HELLO: &str = "/holdfast.cluster.v1.Peer/Hello";
pub(crate) const FRAMES: &str = "/holdfast.cluster.v1.Peer/Frames";
pub(crate) const UPLOAD: &str = "/holdfast.cluster.v1.Peer/Upload";
pub(crate) const DOWNLOAD: &str = "/holdfast.cluster.v1.Peer/Download";

/// The frames that a method returns.
pub(crate) type FrameStream = std::pin::Pin<Box<dyn Stream<Item = Result<Batch, Status>> + Send>>;

/// The gRPC client of a connection.
fn client(sender: &Sender) -> Grpc<Sender> {
    // All nodes share one authority; TLS has verified it.
    let origin = http::Uri::from_static("https://peer.holdfast");
    Grpc::with_origin(sender.clone(), origin)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
}

/// Sends a hello and returns the answer.
pub(crate) async fn exchange_hello(sender: &Sender, hello: Hello) -> Result<HelloAnswer, Status> {
    let mut client = client(sender).max_decoding_message_size(MAX_HELLO);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = client
        .unary(
            Request::new(hello),
            PathAndQuery::from_static(HELLO),
            Messages::<Hello, HelloAnswer>::default(),
        )
        .await?;
    Ok(answer.into_inner())
}

/// Calls a method that exchanges frames.
pub(crate) async fn exchange_frames<S>(
    sender: &Sender,
    method: &'static str,
    out: S,
) -> Result<Streaming<Bytes>, Status>
where
    S: Stream<Item = Batch> + Send + 'static,
{
    let mut client = client(sender);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = client
        .streaming(Request::new(out), PathAndQuery::from_static(method), Frames)
        .await?;
    Ok(answer.into_inner())
}
