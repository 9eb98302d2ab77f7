//! What a backup reads, under `/holdfast/v1/backup`: facts of the hub, and the state of each group.
//!
//! ```text
//! body of a group   frame, frame, …      frame: kind 1 │ length 4 │ content
//! kind              0 a chunk of the export · 1 why there are no more, as text
//! ```
//!
//! Invariants: both calls need all rights, since sealed keys, twins and messages leave the hub; secrets leave sealed.
//! Not here: the chunks of an export (`consensus`), the form of a backup (`backup`).

use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt as _, stream};
use holdfast_cluster::control::LogScope;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::super::error::ApiError;
use super::Request;
use holdfast_net::http_api::{self, Reply};

/// The version of both calls.
const VERSION: u32 = 1;
const CHUNK: u8 = 0;
const FAILURE: u8 = 1;
/// Sent at a time: between two pieces the core that encrypts them serves its devices.
const PIECE_BYTES: usize = 64 << 10;

/// `GET /holdfast/v1/backup`.
pub(super) fn facts(request: &Request<'_>) -> Result<Reply, ApiError> {
    let facts = request.shared.control.export_facts();
    let settings = request.shared.registry().settings()?;
    request.audit("readBackupFacts", "hub", None);
    Ok(Reply::ok(json!({
        "version": VERSION,
        "hub": settings.hub_name,
        "hubId": settings.hub_id,
        "cluster": facts.cluster,
        "partitions": settings.partition_count.get(),
        "wrappedKey": HEXLOWER.encode(&facts.wrapped_key),
        "program": env!("CARGO_PKG_VERSION"),
    })))
}

/// `GET /holdfast/v1/backup/groups/{group}?log=none|all|INDEX`; with an index: the entries above it.
pub(super) async fn group(group: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let number = group
        .parse()
        .map_err(|_| ApiError::invalid("a group is a number: 0 is the registry, 1 the first partition"))?;
    let log = scope(request)?;
    let chunks = request.shared.control.export(number, log).await;
    let outcome = chunks.map_err(|error| ApiError::new(error.code(), error.to_string()));
    request.audit("exportGroup", group, outcome.as_ref().err().map(|error| error.code));
    let frames = outcome?.map(|chunk| match chunk {
        Ok(chunk) => (CHUNK, chunk),
        Err(error) => (FAILURE, Bytes::from(error.to_string())),
    });
    let pieces = frames.flat_map(|(kind, content)| stream::iter(pieces(kind, content)));
    let data = pieces.then(|piece| async {
        tokio::task::yield_now().await;
        Ok(Frame::data(piece))
    });
    Ok(Reply::stream(
        "application/octet-stream",
        StreamBody::new(data).boxed_unsync(),
    ))
}

/// A frame of the body, in pieces.
fn pieces(kind: u8, mut content: Bytes) -> impl Iterator<Item = Bytes> {
    let mut head = BytesMut::with_capacity(5);
    head.put_u8(kind);
    head.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    let rest = std::iter::from_fn(move || {
        let length = content.len().min(PIECE_BYTES);
        (length > 0).then(|| content.split_to(length))
    });
    std::iter::once(head.freeze()).chain(rest)
}

fn scope(request: &Request<'_>) -> Result<LogScope, ApiError> {
    let given = http_api::query(request.uri, "log");
    match given.as_deref() {
        None | Some("none") => Ok(LogScope::None),
        Some("all") => Ok(LogScope::All),
        Some(index) => index
            .parse()
            .map(LogScope::After)
            .map_err(|_| ApiError::invalid("log must be none, all, or an index")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_head_and_short_pieces_of_its_content() {
        for length in [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 1] {
            let content: Bytes = (0..=250).cycle().take(length).collect();
            let sent: Vec<Bytes> = pieces(CHUNK, content.clone()).collect();
            let whole = sent.concat();
            assert_eq!(
                whole[..5],
                [&[CHUNK][..], &u32::try_from(length).unwrap().to_be_bytes()].concat()
            );
            assert_eq!(whole[5..], content);
            assert!(sent.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES));
        }
    }
}
