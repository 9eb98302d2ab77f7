//! A hub for tests: registry, router, tokens, and a view that writes down what it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use holdfast_auth::{HubNames, Key, sign};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_model::{DeviceId, ErrorCode, IdentityId, RefusalReason, UnixMillis};
use holdfast_net::Peer;
use holdfast_registry::{Founding, Registry, RegistryConfig};
use holdfast_service_api::rest::{Asked, Caller, Connection, HubView, RestConfig, RestState, router};
use holdfast_storage::{DataDir, Disk, DiskGuard, Flusher, Kek, NodeIdentity, OnFatal, Sealer, StorageConfig};
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const VERSION: &str = "api-version=2021-04-12";
const HOST: &str = "hub1.example.com";

/// Notes refusals and changes.
#[derive(Default)]
pub(crate) struct View {
    refusals: Mutex<Vec<(String, String)>>,
    changes: Mutex<Vec<(String, String, Option<u32>)>>,
}

impl View {
    pub(crate) fn refusals(&self) -> Vec<(String, String)> {
        self.refusals.lock().clone()
    }

    pub(crate) fn changes(&self) -> Vec<(String, String, Option<u32>)> {
        self.changes.lock().clone()
    }
}

impl HubView for View {
    fn connections<'a>(&'a self, ids: Vec<&'a IdentityId>) -> Asked<'a, Vec<Connection>> {
        Box::pin(async move { vec![Connection::default(); ids.len()] })
    }

    fn connected_device_count(&self) -> Asked<'_, u64> {
        Box::pin(async { 3 })
    }

    fn diagnose<'a>(&'a self, _: &'a IdentityId) -> Asked<'a, Value> {
        Box::pin(async { serde_json::json!({"refusals": []}) })
    }

    fn refused(&self, caller: &Caller, reason: RefusalReason, _: ErrorCode) {
        self.refusals
            .lock()
            .push((caller.principal.clone(), reason.as_str().to_owned()));
    }

    fn changed(&self, caller: &Caller, operation: &'static str, subject: &str, code: Option<ErrorCode>) {
        assert_eq!(caller.principal, "policy iothubowner");
        assert_eq!(caller.address.port(), 4711);
        self.changes
            .lock()
            .push((operation.to_owned(), subject.to_owned(), code.map(ErrorCode::number)));
    }
}

pub(crate) struct Hub {
    pub(crate) registry: Registry,
    pub(crate) view: Arc<View>,
    router: Router,
    _dir: tempfile::TempDir,
}

fn now() -> UnixMillis {
    UnixMillis(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

async fn registry(path: &Path) -> Registry {
    let storage = StorageConfig {
        dir: path.to_owned(),
        max_open_files: 64,
        ..StorageConfig::default()
    };
    let identity = || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: 7,
    };
    let dir = DataDir::open(path, identity).unwrap();
    let sealer = Arc::new(Sealer::of_directory(path, &Kek::new([5; 32]), dir.is_fresh()).unwrap());
    let disk: Arc<dyn Disk> = holdfast_storage::open(&dir, &storage).unwrap();
    let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
    let host = GroupHost {
        disk: disk.clone(),
        flusher: Flusher::spawn(disk.clone(), on_fatal.clone()).unwrap(),
        guard: DiskGuard::new(disk, &storage).unwrap(),
        node: 7,
        on_fatal,
        transport: Arc::new(holdfast_consensus::transport::Alone),
        groups: holdfast_consensus::Groups::default(),
    };
    let founding = Founding {
        hub_name: "hub1".to_owned(),
        ..Founding::default()
    };
    let config = RegistryConfig::default();
    Registry::start(
        &host,
        &ConsensusConfig::default(),
        sealer,
        &founding,
        Arc::new(now),
        &config,
        true,
    )
    .await
    .unwrap()
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path()).await;
        let view = Arc::new(View::default());
        let state = RestState {
            registry: registry.clone(),
            hub: view.clone(),
            hub_names: HubNames::new([HOST]),
            clock: Arc::new(now),
            cluster: None,
            config: RestConfig::default(),
        };
        Self {
            registry,
            view,
            router: router(state),
            _dir: dir,
        }
    }

    /// A policy's token that ends in `seconds`.
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
            body: Body::empty(),
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

/// A request being made.
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
        self.body = Body::from(body);
        self
    }

    /// Announces `length` bytes that never come.
    pub(crate) fn endless_body(mut self, length: u64) -> Self {
        self.headers.insert("content-length", length.into());
        self.body = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
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
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        request.extensions_mut().insert(Peer {
            address,
            encrypted: true,
            server_name: None,
        });
        let response = self.hub.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes().into(),
        }
    }
}

/// What came back.
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
