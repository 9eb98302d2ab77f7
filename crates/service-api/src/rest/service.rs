//! The router as what `net` serves on the HTTPS port.

use std::pin::Pin;

use axum::Router;
use axum::body::Body;
use holdfast_net::{HttpService, Peer};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tower::ServiceExt as _;

/// Answers requests by a router, which finds the [`Peer`] in the request's extensions.
#[derive(Clone)]
pub struct RestService(Router);

impl RestService {
    /// Serves `router`.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self(router)
    }
}

impl HttpService for RestService {
    fn call(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
    ) -> Pin<Box<dyn Future<Output = Response<holdfast_net::Body>>>> {
        request.extensions_mut().insert(peer.clone());
        let router = self.0.clone();
        Box::pin(async move {
            let response = match router.oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }
}
