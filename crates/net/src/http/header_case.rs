//! The spelling of `ETag` in answers.
//!
//! Why: `hyper` writes names of headers in lower case, which RFC 9110 §5.1 allows; the C device SDK looks for `ETag` byte for byte, and
//! takes no cloud-to-device message without it (Spec rest §1.3).
//! `hyper` writes a name as a map in the message's extensions has it, but a caller cannot make such a map: it is taken from a request
//! that `hyper` has read.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::ETAG;
use http::{Extensions, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

static SPELLING: LazyLock<Extensions> = LazyLock::new(read_spelling);

/// Has `ETag`, if the answer has one, written as the original writes it.
pub(super) fn spell<B>(answer: &mut Response<B>) {
    if answer.headers().contains_key(ETAG) {
        answer.extensions_mut().extend(SPELLING.clone());
    }
}

fn read_spelling() -> Extensions {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nETag: \"\"\r\n\r\n";
    let read = RefCell::new(Extensions::new());
    let service = service_fn(|request: Request<Incoming>| {
        *read.borrow_mut() = request.into_parts().0.extensions;
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    // All bytes are there, so that nothing waits.
    let _ = hyper::server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(tokio::io::join(REQUEST, tokio::io::sink())), service)
        .now_or_never();
    read.into_inner()
}
