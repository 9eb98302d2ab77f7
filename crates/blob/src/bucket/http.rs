//! The HTTP client of the bucket: HTTP/1.1 over the hub's own TLS, on connections that are kept.
//!
//! Why: `object_store` brings another HTTP stack unless it is given a client, and the hub has one TLS stack.
//! Invariants: no redirection is followed; a request whose head or body does not come in time ends; an answer that is no content is bounded.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_tasks::sync::Mutex;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;

/// Connections to one server that are kept for the next request.
const MAX_IDLE: usize = 32;

/// Largest answer with an error's status.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum TransportError {
    #[error("the address has no host")]
    NoHost,
    #[error("cannot connect to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    #[error("no TLS with {0}: {1}")]
    Tls(String, #[source] std::io::Error),
    #[error("no answer from {0} in time")]
    Timeout(String),
    #[error("the answer's content does not arrive in time")]
    Stalled,
    #[error("the answer is too large")]
    TooLarge,
    #[error("the connection is broken: {0}")]
    Http(#[source] hyper::Error),
}

impl From<TransportError> for HttpError {
    fn from(error: TransportError) -> Self {
        let kind = match &error {
            TransportError::Connect(..) => HttpErrorKind::Connect,
            TransportError::Timeout(_) | TransportError::Stalled => HttpErrorKind::Timeout,
            TransportError::Http(error) if error.is_canceled() => HttpErrorKind::Request,
            TransportError::Http(_) => HttpErrorKind::Interrupted,
            // A repetition ends as the first one did.
            TransportError::NoHost | TransportError::Tls(..) | TransportError::TooLarge => HttpErrorKind::Unknown,
        };
        Self::new(kind, error)
    }
}

/// Whether it speaks TLS, and where it is.
type Server = (bool, Authority);

/// See the module. Clones share the connections.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    tls: TlsConnector,
    timeout: Duration,
    idle: Mutex<HashMap<Server, Vec<SendRequest<HttpRequestBody>>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Each request has `timeout` until the head of its answer, and for each piece of its content.
    pub(super) fn new(tls: ClientConfig, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            tls: TlsConnector::from(Arc::new(tls)),
            timeout,
            idle: Mutex::default(),
        }))
    }

    fn take_idle(&self, server: &Server) -> Option<SendRequest<HttpRequestBody>> {
        let mut idle = self.0.idle.lock();
        let kept = idle.get_mut(server)?;
        kept.retain(|sender| !sender.is_closed());
        // One whose answer is still being read is not ready.
        let ready = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(ready))
    }

    fn keep(&self, server: Server, sender: SendRequest<HttpRequestBody>) {
        let mut idle = self.0.idle.lock();
        let kept = idle.entry(server).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(sender);
        }
    }

    async fn connect(&self, server: &Server) -> Result<SendRequest<HttpRequestBody>, TransportError> {
        let (is_tls, authority) = server;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if *is_tls { 443 } else { 80 });
        let failed = |error| TransportError::Connect(authority.to_string(), error);
        let socket = TcpStream::connect((name, port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        if !is_tls {
            return speak(socket).await;
        }
        let server = ServerName::try_from(name.to_owned()).map_err(|_| TransportError::NoHost)?;
        let stream = self.0.tls.connect(server, socket).await;
        speak(stream.map_err(|error| TransportError::Tls(authority.to_string(), error))?).await
    }

    async fn exchange(&self, mut request: HttpRequest) -> Result<http::Response<Incoming>, TransportError> {
        let parts = request.uri().clone().into_parts();
        let authority = parts.authority.ok_or(TransportError::NoHost)?;
        let is_tls = parts.scheme != Some(Scheme::HTTP);
        let default_port = if is_tls { 443 } else { 80 };
        // As it has been signed: without the port that URLs leave out.
        let host = match authority.port_u16() {
            Some(port) if port == default_port => authority.host(),
            _ => authority.as_str(),
        };
        let host = HeaderValue::from_str(host).map_err(|_| TransportError::NoHost)?;
        request.headers_mut().insert(header::HOST, host);
        *request.uri_mut() = parts.path_and_query.map_or(Uri::from_static("/"), Uri::from);
        let server = (is_tls, authority);
        while let Some(mut sender) = self.take_idle(&server) {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(server, sender);
                    return Ok(response);
                }
                // The server has closed it meanwhile.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(TransportError::Http(error.into_error())),
                },
            }
        }
        let mut sender = self.connect(&server).await?;
        let response = sender.send_request(request).await.map_err(TransportError::Http)?;
        self.keep(server, sender);
        Ok(response)
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<HttpRequestBody>, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(TransportError::Http)?;
    // Ends with the connection; its errors come back from the request that they break.
    holdfast_tasks::spawn("bucket-connection", async move {
        let _ = connection.await;
    });
    Ok(sender)
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let timeout = self.0.timeout;
        let server = request.uri().authority().map(Authority::to_string).unwrap_or_default();
        let answered = tokio::time::timeout(timeout, self.exchange(request)).await;
        let (head, body) = answered.unwrap_or(Err(TransportError::Timeout(server)))?.into_parts();
        let left = match head.status.is_success() {
            true => u64::MAX,
            false => MAX_ERROR_BYTES,
        };
        let body = Timed {
            body,
            timeout,
            deadline: Box::pin(tokio::time::sleep(timeout)),
            is_waiting: false,
            left,
        };
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

impl HttpConnector for Client {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// A body whose pieces come in time, and which has an end.
struct Timed {
    body: Incoming,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
    left: u64,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(frame) = polled else {
            // The time of a reader that comes late is its own.
            if !std::mem::replace(&mut self.is_waiting, true) {
                let next = Instant::now() + self.timeout;
                self.deadline.as_mut().reset(next);
            }
            return match self.deadline.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(TransportError::Stalled.into()))),
                Poll::Pending => Poll::Pending,
            };
        };
        self.is_waiting = false;
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(TransportError::Http)?;
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.left = self.left.checked_sub(length).ok_or(TransportError::TooLarge)?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
