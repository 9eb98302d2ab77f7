//! One HTTP/1.1 connection to a hub, over any stream.

use anyhow::Result;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
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

    /// Sends one request and reads the whole answer.
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
        if !body.is_empty() {
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
