//! The layers below the peer protocol: TLS, HTTP/2 and gRPC.

pub(crate) mod codec;
pub(crate) mod grpc;
pub(crate) mod http2;
pub(crate) mod tls;
