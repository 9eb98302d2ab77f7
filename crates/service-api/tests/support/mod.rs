//! A hub for tests: a node, its service API, tokens, and the records of its audit log.

mod audit_log;
mod control;
pub(crate) mod issuer;
mod node;

use std::net::SocketAddr;

use audit_log::{AuditLog, Change, Refusal};
use bytes::Bytes;
use holdfast_auth::{Key, sign};
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::DeviceHubConfig;
use holdfast_model::{DeviceId, IdentityId, NodeId};
use holdfast_net::{Body, Peer};
use holdfast_oidc::Issuer;
use holdfast_registry::Registry;
use holdfast_service_api::rest::{RestConfig, RestService};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::Value;

pub(crate) use node::{HOST, now};

pub(crate) const VERSION: &str = "api-version=2021-04-12";

pub(crate) struct Hub {
    pub(crate) registry: Registry,
    pub(crate) node: node::Node,
    service: RestService,
    audit: AuditLog,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        Self::start_with(DeviceHubConfig::default()).await
    }

    pub(crate) async fn start_with(config: DeviceHubConfig) -> Self {
        Self::start_with_issuer(config, None).await
    }

    pub(crate) async fn start_with_issuer(config: DeviceHubConfig, issuer: Option<Issuer>) -> Self {
        let audit = AuditLog::capture();
        let node = node::Node::start_with(NodeId(7), &SimNetwork::new(1), config).await;
        let control = control::start(&node).await;
        let service = RestService::new(node.hub.clone(), control, issuer, RestConfig::default());
        Self {
            registry: node.registry.clone(),
            node,
            service,
            audit,
        }
    }

    /// The refusals of the audit log: principal and reason.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.audit.refusals()
    }

    /// The changes of the audit log: operation, subject, and the number of a refusal.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.audit.changes()
    }

    /// A token of a policy that expires in `seconds`.
    pub(crate) fn token(&self, policy: &str, seconds: i64) -> String {
        let keys = &self.registry.policy(policy).unwrap().keys;
        let expiry = now().seconds().checked_add_signed(seconds).unwrap();
        sign(HOST, keys.primary.as_bytes(), Some(policy), expiry)
    }

    pub(crate) fn device_token(&self, device: &str, key: &str) -> String {
        let id = IdentityId::device(DeviceId::parse(device).unwrap());
        holdfast_auth::sign_identity(HOST, &id, &Key::from_base64(key).unwrap(), now().seconds() + 600)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Call<'_> {
        Call {
            hub: self,
            method: method.to_owned(),
            path: path.to_owned(),
            query: VERSION.to_owned(),
            headers: HeaderMap::new(),
            body: full(Vec::new()),
        }
    }

    pub(crate) fn by(&self, policy: &str, method: &str, path: &str) -> Call<'_> {
        self.request(method, path)
            .authorization(Some(&self.token(policy, 3600)))
    }

    pub(crate) fn owner(&self, method: &str, path: &str) -> Call<'_> {
        self.by("iothubowner", method, path)
    }
}

fn full(body: Vec<u8>) -> Body {
    Full::new(Bytes::from(body))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A request under construction.
pub(crate) struct Call<'a> {
    hub: &'a Hub,
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Body,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn authorization(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.header("authorization", token),
            None => self,
        }
    }

    pub(crate) fn if_match(self, etag: &str) -> Self {
        self.header("if-match", etag)
    }

    pub(crate) fn query(mut self, more: &str) -> Self {
        self.query = format!("{more}&{}", self.query);
        self
    }

    pub(crate) fn raw_query(mut self, query: &str) -> Self {
        self.query = query.to_owned();
        self
    }

    pub(crate) fn body(self, body: Value) -> Self {
        self.raw_body(body.to_string().into_bytes())
    }

    pub(crate) fn raw_body(mut self, body: Vec<u8>) -> Self {
        self.headers.insert("content-length", body.len().into());
        self.body = full(body);
        self
    }

    /// Announces `length` bytes that never arrive.
    pub(crate) fn endless_body(mut self, length: u64) -> Self {
        self.headers.insert("content-length", length.into());
        let frames = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, _>>();
        self.body = StreamBody::new(frames).boxed_unsync();
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let uri = if self.query.is_empty() {
            self.path
        } else {
            format!("{}?{}", self.path, self.query)
        };
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(uri)
            .body(self.body)
            .unwrap();
        *request.headers_mut() = self.headers;
        let peer = Peer {
            address: SocketAddr::from(([127, 0, 0, 1], 4711)),
            encrypted: true,
            server_name: None,
            certificates: None,
            tls: None,
        };
        let response = self.hub.service.answer(request, &peer).await;
        let (head, body) = response.into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes().into(),
        }
    }
}

/// The response.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text());
    }

    #[track_caller]
    pub(crate) fn refused(&self, number: u32, name: &str) {
        assert_eq!(u32::from(self.status), number / 1000, "{}", self.text());
        assert_eq!(self.json()["errorCode"], number, "{}", self.text());
        assert_eq!(self.header("iothub-errorcode"), name);
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn response_header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.response_header(name).unwrap_or_default().to_owned()
    }
}
