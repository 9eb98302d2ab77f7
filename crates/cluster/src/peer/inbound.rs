//! Connections that other nodes open: accepting, hello, and serving calls, uploads and downloads.

mod call_server;
mod connection;
pub(crate) mod listener;
mod rate_limited_log;
mod service;
mod streaming;
