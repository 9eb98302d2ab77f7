//! Listeners, TLS and WebSockets: bytes in, bytes out.
