//! HTTPS and the WebSockets that share its port.

mod header_case;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_tasks::{Phase, Stop};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use bytes::Bytes;

use crate::router::{Port, Router, Target};
use crate::websocket::WebSocketBytes;
use crate::{ByteStream, Peer, Socket};

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The body type that services answer with.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Answers requests; built once per core.
pub trait HttpService {
    /// Answers one request.
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> std::pin::Pin<Box<dyn Future<Output = Response<Body>>>>;
}

/// Takes over connections of one protocol.
pub trait StreamHandler {
    /// Takes over a connection; must not block.
    fn accept(&self, socket: Socket, address: SocketAddr);
}

/// The handler of a route.
#[derive(Clone)]
pub enum Handler {
    /// Answers HTTP requests.
    Http(Rc<dyn HttpService>),
    /// Takes over the stream, after a WebSocket's upgrade where there is one.
    Stream(Rc<dyn StreamHandler>),
}

/// Hands a connection that was accepted on `port` to its handler. TLS may not have begun yet: no route of such a port has a server name.
pub fn serve_stream(socket: Socket, address: SocketAddr, router: &Router<Handler>, port: Port) {
    let target = Target {
        port,
        server_name: None,
        path: None,
        subprotocol: None,
    };
    match router.find(target) {
        Some(Handler::Stream(handler)) => handler.accept(socket, address),
        Some(Handler::Http(_)) | None => {
            tracing::debug!(%address, ?port, "no handler for a connection; it is dropped");
        }
    }
}

/// Serves HTTP/1.1 on `stream` until the peer closes, an upgrade takes over, or the node closes.
pub async fn serve_http<S: ByteStream>(
    stream: S,
    peer: Peer,
    router: Rc<Router<Handler>>,
    head_timeout: Duration,
    stop: Stop,
) {
    let served = {
        let peer = peer.clone();
        service_fn(move |request| {
            let (peer, router) = (peer.clone(), Rc::clone(&router));
            async move {
                if is_upgrade(&request) {
                    return Ok::<_, Infallible>(upgrade(request, peer, &router));
                }
                Ok(match router.find(target(&request, &peer, None)) {
                    Some(Handler::Http(service)) => {
                        let mut answer = service.call(request, &peer).await;
                        header_case::spell(&mut answer);
                        answer
                    }
                    Some(Handler::Stream(_)) | None => {
                        refuse(StatusCode::NOT_FOUND, "there is nothing at this address")
                    }
                })
            }
        })
    };
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), served)
            .with_upgrades()
    );
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = stop.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                () = stop.reached(Phase::Closing) => Ok(()),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(address = %peer.address, %error, "HTTP connection ended with an error");
    }
}

fn is_upgrade(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn target<'a>(request: &'a Request<Incoming>, peer: &'a Peer, subprotocol: Option<&'a str>) -> Target<'a> {
    Target {
        port: Port::Https,
        server_name: peer.server_name.as_deref(),
        path: Some(request.uri().path()),
        subprotocol,
    }
}

/// A body without bytes.
#[must_use]
pub fn empty_body() -> Body {
    body("")
}

fn refuse(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body(text));
    *response.status_mut() = status;
    response
}

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Answers a WebSocket handshake (RFC 6455 §4.2) and hands the bytes to the subprotocol's handler. The client's spelling
/// of the subprotocol is echoed; extensions are declined by not echoing them.
fn upgrade(request: Request<Incoming>, peer: Peer, router: &Router<Handler>) -> Response<Body> {
    let bad = |text| refuse(StatusCode::BAD_REQUEST, text);
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        return bad("Sec-WebSocket-Key is missing");
    };
    let offered: Vec<&str> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let chosen = offered
        .iter()
        .find_map(|offer| match router.find(target(&request, &peer, Some(offer))) {
            Some(Handler::Stream(handler)) => Some((*offer, Rc::clone(handler))),
            Some(Handler::Http(_)) | None => None,
        });
    let Some((spelling, handler)) = chosen else {
        let known: Vec<&str> = router.subprotocols(Port::Https).collect();
        let text = format!(
            "no known WebSocket subprotocol was offered; this hub speaks {}",
            known.join(" and ")
        );
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    let Ok(echo) = HeaderValue::from_str(spelling) else {
        return bad("the WebSocket subprotocol is malformed");
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return bad("Sec-WebSocket-Key is malformed");
    };
    holdfast_tasks::spawn_local(
        "websocket-upgrade",
        Box::pin(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    let bytes = WebSocketBytes::server(TokioIo::new(upgraded)).await;
                    let socket = Socket::stream(Box::new(bytes), peer.certificates).with_tls_parameters(peer.tls);
                    handler.accept(socket, peer.address);
                }
                Err(error) => tracing::debug!(address = %peer.address, %error, "WebSocket upgrade failed"),
            }
        }),
    );
    let mut response = Response::new(body(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, echo);
    response
}
