//! Requests to other servers: webhooks, and the REST API of linked hubs.
//!
//! Why a trait: the composition root has the one HTTP client of a node, with its CAs; tests have servers of their own.

use std::pin::Pin;
use std::time::Duration;

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub struct OutboundRequest {
    /// The method.
    pub method: &'static str,
    /// http or https, without user and password.
    pub url: String,
    /// HOST or HOST:PORT to connect to in place of that of the URL, whose host the certificate must have all the same.
    pub connect_to: Option<String>,
    /// The CA of the server's certificate, PEM; `None`: those of the configuration.
    pub ca_certificate: Option<String>,
    /// The connection may be one that an earlier request has left, and a request over it may be sent twice.
    pub is_kept: bool,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// A JSON body; empty: none.
    pub body: Vec<u8>,
    /// How long connecting and answering may take together.
    pub timeout: Duration,
}

/// An answer. Redirects are answers like others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboundAnswer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundError {
    /// Whether the server may have got the request.
    pub may_have_been_sent: bool,
    /// For people; names no secret.
    pub text: String,
}

/// The client.
pub trait Outbound: Send + Sync {
    /// Sends one request and reads the answer, which is bounded in size.
    fn send(
        &self,
        request: OutboundRequest,
    ) -> Pin<Box<dyn Future<Output = Result<OutboundAnswer, OutboundError>> + Send + '_>>;
}
