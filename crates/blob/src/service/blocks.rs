//! Operations on blocks.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::limits::{MAX_BLOB_BLOCK_BYTES, MAX_BLOB_BLOCK_ID_BYTES};
use holdfast_net::Body;
use holdfast_net::http_api::RequestBody;
use holdfast_tasks::ByteBudget;
use http::{Response, StatusCode};

use super::blobs::{body_md5, new_blob, too_large, written};
use super::error::BlobError;
use super::request::BlobRequest;
use super::xml::{Element, block_list};
use super::{empty, set, xml};
use crate::BlobStore;

/// Longest list of blocks: 50,000 of them, each of the longest ids, and the space between.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// How long a list may take to arrive.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn put(
    store: &BlobStore,
    request: &BlobRequest,
    body: &mut Option<Body>,
) -> Result<Response<Body>, BlobError> {
    let id = request.parameter("blockid").and_then(|id| STANDARD.decode(id).ok());
    let id = id.filter(|id| (1..=MAX_BLOB_BLOCK_ID_BYTES).contains(&id.len()));
    let id = id.ok_or_else(|| BlobError::query("blockid is the base64 of 1 to 64 bytes"))?;
    let length = request.content_length()?;
    let most = MAX_BLOB_BLOCK_BYTES.min(store.config().max_blob_size.bytes());
    if length > most {
        return Err(too_large(most));
    }
    let Some(body) = body.take().filter(|_| length > 0) else {
        return Err(BlobError::header("a block has at least one byte"));
    };
    let md5 = body_md5(request)?;
    // Before the body: a container that is not there is certain to be refused.
    store.container(request.container()).await?;
    store.check_name(request.container(), request.blob())?;
    store.check_space_for(length).await?;
    let content = store.receive(body, length, md5).await?;
    store
        .put_block(request.container(), request.blob(), id, content)
        .await?;
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, "x-ms-request-server-encrypted", "false");
    if let Some(md5) = request.header("content-md5")? {
        set(&mut response, "content-md5", md5);
    }
    Ok(response)
}

pub(super) async fn put_list(
    store: &BlobStore,
    request: &BlobRequest,
    body: &mut Option<Body>,
    only_create: bool,
) -> Result<Response<Body>, BlobError> {
    let length = request.content_length()?;
    if length > MAX_LIST_BYTES as u64 {
        return Err(too_large(MAX_LIST_BYTES as u64));
    }
    let new = new_blob(request, false, only_create)?;
    let Some(body) = body.take() else {
        return Err(BlobError::header("the list of blocks is missing"));
    };
    // The requests that are worked on are bounded, and so are these bodies.
    let budget = ByteBudget::new(MAX_LIST_BYTES);
    let mut body = RequestBody::new(&request.head.headers, body, budget, LIST_TIMEOUT);
    let read = body.read(MAX_LIST_BYTES).await;
    let (bytes, _held) =
        read.map_err(|error| BlobError::new(StatusCode::BAD_REQUEST, "IncompleteBody", error.to_string()))?;
    let list = block_list(&bytes);
    let list = list.ok_or_else(|| {
        let text = "the body is no list of at most 50,000 blocks";
        BlobError::new(StatusCode::BAD_REQUEST, "InvalidXmlDocument", text)
    })?;
    let committed = store
        .put_block_list(request.container(), request.blob(), list, new)
        .await?;
    Ok(written(StatusCode::CREATED, committed))
}

pub(super) async fn list(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let wanted = request
        .parameter("blocklisttype")
        .unwrap_or("committed")
        .to_ascii_lowercase();
    let blocks = store.block_list(request.container(), request.blob()).await?;
    let mut document = Element::document("BlockList");
    for (name, kind, blocks) in [
        ("CommittedBlocks", "committed", &blocks.committed),
        ("UncommittedBlocks", "uncommitted", &blocks.uncommitted),
    ] {
        if wanted != kind && wanted != "all" {
            continue;
        }
        document.begin(name);
        for (id, length) in blocks {
            document.begin("Block");
            document.text("Name", &STANDARD.encode(id));
            document.text("Size", &length.to_string());
            document.end();
        }
        document.end();
    }
    let mut response = xml(StatusCode::OK, document.finish());
    let facts = store.blob(request.container(), request.blob()).await?;
    if let Some(facts) = facts {
        set(&mut response, "etag", &facts.etag.to_string());
        set(&mut response, "x-ms-blob-content-length", &facts.size.to_string());
    }
    Ok(response)
}
