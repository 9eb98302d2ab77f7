//! The service API as `net` serves it on the HTTPS port.

use std::pin::Pin;
use std::sync::Arc;

use holdfast_cluster::control::Control;
use holdfast_device_hub::DeviceHub;
use holdfast_net::{Body, HttpService, Peer};
use holdfast_oidc::Issuer;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::config::RestConfig;
use super::pipeline;
use super::state::Shared;

/// The service API of a node. Clones share its limits.
#[derive(Clone)]
pub struct RestService(Arc<Shared>);

impl RestService {
    /// The service API over this node's device hub and cluster control. Bearer tokens of `issuer` open it, if there is one.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, control: Control, issuer: Option<Issuer>, config: RestConfig) -> Self {
        Self(Arc::new(Shared::new(hub, control, issuer, config)))
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request<Body>, peer: &Peer) -> Response<Body> {
        let (head, body) = request.into_parts();
        pipeline::answer(&self.0, &head, body, peer).await
    }
}

impl HttpService for RestService {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        let (service, peer) = (self.clone(), peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { service.answer(request, &peer).await })
    }
}
