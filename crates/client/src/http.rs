//! One HTTP/1.1 connection to a hub, over any stream.

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest answer that is read: a thousand devices are about 1 MiB.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// An open connection; requests go one after the other.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    max_answer_bytes: usize,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The body of an answer as it comes.
pub struct BodyStream {
    body: Incoming,
    /// Received and not taken yet.
    rest: BytesMut,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl BodyStream {
    /// The next `length` bytes; `None` when the body has ended before the first of them.
    ///
    /// # Errors
    /// The connection breaks, or the body ends in the middle.
    pub async fn take(&mut self, length: usize) -> Result<Option<Bytes>> {
        // At once: growing step by step would copy what has come each time.
        self.rest.reserve(length.saturating_sub(self.rest.len()));
        while self.rest.len() < length {
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                None if self.rest.is_empty() => return Ok(None),
                None => anyhow::bail!("the answer ends in the middle"),
            }
        }
        Ok(Some(self.rest.split_to(length).freeze()))
    }

    /// All that is left, of which at most `max_bytes` are kept.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn rest(mut self, max_bytes: usize) -> Result<Bytes> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data()
                && self.rest.len() < max_bytes
            {
                self.rest.extend_from_slice(&data);
            }
        }
        self.rest.truncate(max_bytes);
        Ok(self.rest.freeze())
    }
}

impl Connection {
    /// Speaks HTTP over `stream`; `host` is the `Host` header.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open<S>(stream: S, host: &str) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::open_bounded(stream, host, MAX_ANSWER_BYTES).await
    }

    /// [`Self::open`] to another server, of whose answers at most `max_answer_bytes` are read.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open_bounded<S>(stream: S, host: &str, max_answer_bytes: usize) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; its errors come back from the request that they break.
        holdfast_tasks::spawn("http-client", async move {
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            host: host.to_owned(),
            max_answer_bytes,
        })
    }

    /// Sends a GET and returns the answer's head and its body as it comes. For one request: the connection ends with the body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn stream(mut self, path: &str, headers: &[(HeaderName, &str)]) -> Result<(StatusCode, BodyStream)> {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(header::HOST, &self.host);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::from(Vec::new()))?).await?;
        let (head, body) = response.into_parts();
        let stream = BodyStream {
            body,
            rest: BytesMut::new(),
            _sender: self.sender,
        };
        Ok((head.status, stream))
    }

    /// Sends one request and reads the whole answer. A body is JSON, unless the headers say what else it is.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is too large.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if !body.is_empty() && headers.iter().all(|(name, _)| name != header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::from(body))?).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.max_answer_bytes).collect().await;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.map_err(anyhow::Error::from_boxed)?.to_bytes(),
        })
    }
}
