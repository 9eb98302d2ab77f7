//! HTTPS for devices and modules (Spec rest §5).
//!
//! [`HttpsFront`] is one core's part: it answers the requests under the paths of devices ([`is_device_path`]), which share
//! port 443 with the service API.
//! Invariants: every request is authenticated by the session API and enters no session, so that a device keeps its connection
//! of another protocol; 204 for a message leaves only after it is committed and synced; requests, bodies and waiting are
//! bounded.
//! Order of checks (Spec rest §1.2): api-version, credential, path, throttle, body.
//! Not here: HTTP itself, paths and bodies (`net`), credentials and batches (`device-hub`).

mod answer;
mod batch;
mod call;
mod files;
mod message;
mod receive;
mod route;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_device_hub::Core;
use holdfast_net::{Body, HttpService, Peer};
use holdfast_tasks::ByteBudget;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::HttpsConfig;
use crate::metrics::HttpsMetrics;

pub use files::{UploadLocation, UploadStorage, UploadedBlob};
pub use route::is_device_path;

/// One core's HTTPS front end.
pub struct HttpsFront {
    core: Rc<Core>,
    config: HttpsConfig,
    metrics: HttpsMetrics,
    requests: Semaphore,
    bodies: ByteBudget,
    uploads: Option<Arc<dyn UploadStorage>>,
}

impl HttpsFront {
    /// The front end of `core`; devices upload files to `uploads`, if there is one.
    #[must_use]
    pub fn new(core: Rc<Core>, config: HttpsConfig, uploads: Option<Arc<dyn UploadStorage>>) -> Rc<Self> {
        Rc::new(Self {
            core,
            metrics: HttpsMetrics::new(),
            requests: Semaphore::new(config.max_requests),
            bodies: ByteBudget::new(config.max_body_bytes.as_usize()),
            config,
            uploads,
        })
    }

    /// Its handler on the HTTPS port, for the paths of [`is_device_path`].
    #[must_use]
    pub fn handler(self: &Rc<Self>) -> Rc<dyn HttpService> {
        Rc::new(OnHttpsPort(Rc::clone(self)))
    }

    /// Answers one request of `peer`.
    pub async fn answer(self: Rc<Self>, request: Request<Body>, peer: &Peer) -> Response<Body> {
        let (head, body) = request.into_parts();
        answer::answer(&self, &head, body, peer).await
    }
}

struct OnHttpsPort(Rc<HttpsFront>);

impl HttpService for OnHttpsPort {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        let (front, peer) = (Rc::clone(&self.0), peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { front.answer(request, &peer).await })
    }
}
