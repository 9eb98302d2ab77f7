//! The gRPC methods of a connection, called side: hello, frames, upload, download.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_model::NodeId;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::connection::Connection;
use super::{call_server, streaming};
use crate::peer::peer_table::Caller;
use crate::peer::protocol::frame::MAX_FRAME_BYTES;
use crate::peer::protocol::hello::{self, MAX_HELLO};
use crate::peer::transport::codec::{Frames, Messages};
use crate::peer::transport::grpc::{DOWNLOAD, FRAMES, FrameStream, HELLO, UPLOAD};

/// Answers one request of a connection.
pub(super) async fn answer(connection: Arc<Connection>, request: http::Request<Incoming>) -> http::Response<Body> {
    match request.uri().path() {
        HELLO => {
            let hello = service_fn(move |request: Request<Hello>| {
                let answer = handle_hello(&connection, &request.into_inner());
                async move { Ok::<_, Status>(Response::new(answer)) }
            });
            Grpc::new(Messages::<HelloAnswer, Hello>::default())
                .max_decoding_message_size(MAX_HELLO)
                .unary(hello, request)
                .await
        }
        FRAMES if connection.has_frames.swap(true, Ordering::AcqRel) => {
            Status::failed_precondition("a connection has one stream of frames").into_http()
        }
        FRAMES => frames(connection, request, call_server::start).await,
        UPLOAD => frames(connection, request, streaming::serve_upload).await,
        DOWNLOAD => frames(connection, request, streaming::serve_download).await,
        _ => Status::unimplemented("no such method").into_http(),
    }
}

/// Serves a method that exchanges frames; requires an accepted hello.
async fn frames(
    connection: Arc<Connection>,
    request: http::Request<Incoming>,
    method: impl Fn(Arc<Connection>, Caller, Streaming<Bytes>) -> FrameStream + Send + Sync,
) -> http::Response<Body> {
    let Some(caller) = connection.caller.get().cloned() else {
        return Status::failed_precondition("a hello comes first").into_http();
    };
    let method = &method;
    let start = service_fn(move |request: Request<Streaming<Bytes>>| {
        let answers = method(Arc::clone(&connection), caller.clone(), request.into_inner());
        async move { Ok::<_, Status>(Response::new(answers)) }
    });
    Grpc::new(Frames)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
        .streaming(start, request)
        .await
}

/// Accepts or refuses a hello. A refused connection is closed.
fn handle_hello(connection: &Connection, theirs: &Hello) -> HelloAnswer {
    let table = &connection.table;
    let ours = table.identity.read().clone();
    let verdict = hello::check_hello(&ours, theirs, table.is_removed(NodeId(theirs.node))).and_then(|protocol| {
        if connection.caller.get().is_some() {
            return Err(hello::HelloRefused {
                reason: HelloRefusal::Malformed,
                text: "a second hello on one connection".into(),
            });
        }
        let (nodes, registered) = (
            &connection.certificate_nodes,
            table.registered_name(NodeId(theirs.node)),
        );
        let unnamed = table.config.unnamed_certificates();
        hello::check_certificate(nodes, unnamed, NodeId(theirs.node), &theirs.name, registered.as_deref())?;
        table.register_inbound(theirs, &connection.close, &connection.heard)?;
        Ok(protocol)
    });
    match &verdict {
        Ok(_) => {
            let joins = theirs.purpose() == Purpose::Join;
            drop(connection.caller.set(Caller {
                node: NodeId(theirs.node),
                name: theirs.name.clone(),
                joins,
            }));
            connection.heard.store(table.now_ms(), Ordering::Relaxed);
            connection.hello_done.send_replace(true);
            if !joins {
                table.record_hello(
                    NodeId(theirs.node),
                    &theirs.name,
                    &theirs.address,
                    &theirs.version,
                    connection.certificate_expires,
                );
            }
        }
        Err(refused) => {
            let label = hello::label(refused.reason);
            table.metrics.refused(label);
            connection.log.warn(connection.from, label, &refused.text);
            connection.close.send_replace(Some("the hello was refused".into()));
        }
    }
    hello::answer(&ours, table.instance, verdict)
}
