//! The gRPC methods of a node: hello, frames, upload, download.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_consensus::transport::Service;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};
use hyper::body::Incoming;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::accept::{Caller, Conn};
use super::codec::{Batch, Frames, Messages};
use super::frame::MAX_FRAME_BYTES;
use super::hello::{self, MAX_HELLO};
use super::{chunks, session};

pub(crate) const HELLO: &str = "/holdfast.cluster.v1.Peer/Hello";
pub(crate) const FRAMES: &str = "/holdfast.cluster.v1.Peer/Frames";
pub(crate) const UPLOAD: &str = "/holdfast.cluster.v1.Peer/Upload";
pub(crate) const DOWNLOAD: &str = "/holdfast.cluster.v1.Peer/Download";

/// What a method gives back.
pub(crate) type Frameful = std::pin::Pin<Box<dyn Stream<Item = Result<Batch, Status>> + Send>>;

/// Answers one request of a connection.
pub(crate) async fn answer(conn: Arc<Conn>, request: http::Request<Incoming>) -> http::Response<Body> {
    match request.uri().path() {
        HELLO => {
            let greet = service_fn(move |request: Request<Hello>| {
                let answer = greet(&conn, &request.into_inner());
                async move { Ok::<_, Status>(Response::new(answer)) }
            });
            Grpc::new(Messages::<HelloAnswer, Hello>::default())
                .max_decoding_message_size(MAX_HELLO)
                .unary(greet, request)
                .await
        }
        FRAMES if conn.has_frames.swap(true, Ordering::AcqRel) => {
            Status::failed_precondition("a connection has one stream of frames").into_http()
        }
        FRAMES => frames(conn, request, session::start).await,
        UPLOAD => frames(conn, request, chunks::take_upload).await,
        DOWNLOAD => frames(conn, request, chunks::give_download).await,
        _ => Status::unimplemented("no such method").into_http(),
    }
}

/// A method that takes and gives frames, for who has been let in.
async fn frames(
    conn: Arc<Conn>,
    request: http::Request<Incoming>,
    method: impl Fn(Arc<Conn>, Caller, Streaming<Bytes>) -> Frameful + Send + Sync,
) -> http::Response<Body> {
    let Some(caller) = conn.caller.get().cloned() else {
        return Status::failed_precondition("a hello comes first").into_http();
    };
    let method = &method;
    let start = service_fn(move |request: Request<Streaming<Bytes>>| {
        let answers = method(Arc::clone(&conn), caller.clone(), request.into_inner());
        async move { Ok::<_, Status>(Response::new(answers)) }
    });
    Grpc::new(Frames)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
        .streaming(start, request)
        .await
}

/// Lets a caller in, or says why not; one that is not let in has its connection closed.
fn greet(conn: &Conn, theirs: &Hello) -> HelloAnswer {
    let shared = &conn.shared;
    let ours = shared.identity.read().clone();
    let verdict = hello::judge(&ours, theirs, shared.is_removed(theirs.node)).and_then(|protocol| {
        if conn.caller.get().is_some() {
            return Err(hello::Refused {
                why: HelloRefusal::Malformed,
                text: "a second hello on one connection".into(),
            });
        }
        let (nodes, registered) = (&conn.certificate_nodes, shared.registered_name(theirs.node));
        let unnamed = shared.config.unnamed();
        hello::check_certificate(nodes, unnamed, theirs.node, &theirs.name, registered.as_deref())?;
        shared.enter(theirs, &conn.end, &conn.heard)?;
        Ok(protocol)
    });
    match &verdict {
        Ok(_) => {
            let joins = theirs.purpose() == Purpose::Join;
            drop(conn.caller.set(Caller {
                node: theirs.node,
                name: theirs.name.clone(),
                joins,
            }));
            conn.heard.store(shared.clock(), Ordering::Relaxed);
            conn.greeted.send_replace(true);
            if !joins {
                shared.learn(
                    theirs.node,
                    &theirs.name,
                    &theirs.address,
                    &theirs.version,
                    conn.certificate_ends,
                );
            }
        }
        Err(refused) => {
            let label = hello::label(refused.why);
            shared.metrics.refused(label);
            conn.troubles.log(conn.from, label, &refused.text);
            conn.end.send_replace(Some("the hello was refused".into()));
        }
    }
    hello::answer(&ours, shared.instance, verdict)
}

/// The service that a call is for, if the caller may call it.
pub(crate) fn allowed(caller: &Caller, service: u8) -> Result<Service, &'static str> {
    match Service::from_number(service) {
        None => Err("this node does not know the service: it runs an older version"),
        Some(service) if caller.joins && service != Service::Control => {
            Err("only members may call this service: join the cluster first")
        }
        Some(service) => Ok(service),
    }
}
