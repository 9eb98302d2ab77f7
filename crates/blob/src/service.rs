//! The endpoint: one request from its head to its answer.
//!
//! Order of checks: a place among those that are worked on, the path, the right, the operation's own. A caller without a right learns
//! nothing of what is there, and its body is not read.
//! Not here: what is stored ([`crate::store`]), the listeners and TLS (`net`).

mod blobs;
mod blocks;
mod conditions;
mod containers;
mod error;
mod operation;
mod request;
mod xml;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use holdfast_net::{Body, HttpService, Peer};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::{Account, BlobStore};

pub(crate) use conditions::Conditions;
use error::BlobError;
use operation::Operation;
use request::BlobRequest;

/// The version that is answered to a request that names none.
const VERSION: &str = "2021-12-02";

/// Bytes of a refused request's body that are read, so that the answer arrives.
const MAX_DISCARDED_BYTES: u64 = 256 * 1024;

/// See the module. Clones share limits and store: one for the node.
#[derive(Clone)]
pub struct BlobService(Arc<Inner>);

struct Inner {
    account: Account,
    store: BlobStore,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl BlobService {
    /// Serves `store` to the holders of the account's keys and signatures.
    #[must_use]
    pub fn new(account: Account, store: BlobStore) -> Self {
        let most = store.config().max_requests;
        Self(Arc::new(Inner {
            account,
            store,
            reads: Arc::new(Semaphore::new(most)),
            writes: Arc::new(Semaphore::new(most)),
        }))
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request<Body>, peer: &Peer) -> Response<Body> {
        let started = Instant::now();
        let id = format!("{:032x}", rand::random::<u128>());
        let (head, body) = request.into_parts();
        let (is_head, version) = (head.method == Method::HEAD, head.headers.get("x-ms-version").cloned());
        let client_id = head.headers.get("x-ms-client-request-id").cloned();
        let method = head.method.clone();
        let path: String = head.uri.path().chars().take(256).collect();
        let mut body = Some(body);
        let (label, outcome) = self.checked(head, &mut body, peer).await;
        let mut response = match outcome {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(
                    request_id = id,
                    operation = label,
                    code = error.code,
                    text = error.text,
                    "blob request refused"
                );
                let response = refusal(&error, &id, is_head);
                discard(body).await;
                response
            }
        };
        let status = response.status().as_u16();
        self.0.store.metrics().answered(label, status, started.elapsed());
        // The storage log: with the blob's name, by which it is found from the hub's log and the notification.
        tracing::debug!(
            request_id = id,
            operation = label,
            %method,
            path = &*holdfast_model::redact(&path),
            status,
            address = %peer.address,
            "blob request"
        );
        let headers = response.headers_mut();
        let version = version.filter(|version| version.len() == VERSION.len());
        headers.insert("x-ms-version", version.unwrap_or(HeaderValue::from_static(VERSION)));
        headers.insert(header::SERVER, HeaderValue::from_static("Holdfast-Blob"));
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert("x-ms-request-id", id);
        }
        if let Some(id) = client_id.filter(|id| id.len() <= 1024) {
            headers.insert("x-ms-client-request-id", id);
        }
        response
    }

    async fn checked(
        &self,
        head: http::request::Parts,
        body: &mut Option<Body>,
        peer: &Peer,
    ) -> (&'static str, Result<Response<Body>, BlobError>) {
        let request = match BlobRequest::parse(&self.0.account, head) {
            Ok(request) => request,
            Err(error) => return ("refused", Err(error)),
        };
        let now = self.0.store.clock().now();
        let right = match request.authorize(&self.0.account, peer.address.ip(), now) {
            Ok(right) => right,
            Err(error) => return ("refused", Err(error)),
        };
        let operation = match Operation::of(&request.head, &request.target, &request.query) {
            Ok(operation) => operation,
            Err(error) => return ("refused", Err(error)),
        };
        let label = operation.label();
        if let Err(error) = right.check(operation) {
            return (label, Err(error));
        }
        let places = match operation.is_read() {
            true => &self.0.reads,
            false => &self.0.writes,
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let text = "as many requests are being worked on as may be (blob.max_requests); retry";
            return (label, Err(BlobError::busy(text)));
        };
        let outcome = self.run(operation, &request, right, body, place).await;
        (label, outcome)
    }

    async fn run(
        &self,
        operation: Operation,
        request: &BlobRequest,
        right: request::Right,
        body: &mut Option<Body>,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<Response<Body>, BlobError> {
        let store = &self.0.store;
        let only_create = !right.may_overwrite();
        match operation {
            Operation::GetAccount => {
                let mut response = empty(StatusCode::OK);
                set(&mut response, "x-ms-sku-name", "Standard_LRS");
                set(&mut response, "x-ms-account-kind", "StorageV2");
                set(&mut response, "x-ms-is-hns-enabled", "false");
                Ok(response)
            }
            Operation::ListContainers => containers::list(store, request).await,
            Operation::CreateContainer => containers::create(store, request).await,
            Operation::GetContainer => containers::get(store, request).await,
            Operation::DeleteContainer => containers::delete(store, request).await,
            Operation::SetContainerMetadata => containers::set_metadata(store, request).await,
            Operation::ListBlobs => containers::list_blobs(store, request).await,
            Operation::PutBlob => blobs::put(store, request, body, only_create).await,
            Operation::PutBlock => blocks::put(store, request, body).await,
            Operation::PutBlockList => blocks::put_list(store, request, body, only_create).await,
            Operation::GetBlockList => blocks::list(store, request).await,
            Operation::GetBlob => blobs::get(store, request, place).await,
            Operation::GetBlobProperties => blobs::properties(store, request).await,
            Operation::SetBlobMetadata => blobs::set_metadata(store, request).await,
            Operation::SetBlobProperties => blobs::set_properties(store, request).await,
            Operation::DeleteBlob => blobs::delete(store, request).await,
        }
    }
}

impl HttpService for BlobService {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        let (service, peer) = (self.clone(), peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { service.answer(request, &peer).await })
    }
}

/// Reads a little of a body that is left.
async fn discard(body: Option<Body>) {
    let Some(mut body) = body else { return };
    let mut left = MAX_DISCARDED_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // Whether the client was slow does not change the answer.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), read).await;
}

fn refusal(error: &BlobError, id: &str, is_head: bool) -> Response<Body> {
    let has_no_body = is_head || error.status == StatusCode::NOT_MODIFIED;
    let mut response = match has_no_body {
        true => empty(error.status),
        false => xml(error.status, error.xml(id)),
    };
    set(&mut response, "x-ms-error-code", error.code);
    if error.status == StatusCode::SERVICE_UNAVAILABLE {
        set(&mut response, "retry-after", "1");
    }
    if let Some(size) = error.blob_size {
        set(&mut response, "content-range", &format!("bytes */{size}"));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        set(&mut response, "www-authenticate", "SharedKey");
    }
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn xml(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(&mut response, "content-type", "application/xml");
    response
}

/// Sets a header; a value that is not valid in HTTP is left out.
fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
