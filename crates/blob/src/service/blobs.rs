//! Operations on whole blobs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use holdfast_model::limits::MAX_BLOB_PUT_BYTES;
use holdfast_net::Body;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use super::containers::add_metadata;
use super::error::BlobError;
use super::request::{BlobRequest, http_date};
use super::{Conditions, empty, set};
use crate::BlobStore;
use crate::store::{BlobFacts, BlobHeaders, BlobStoreError, Committed, NewBlob, Reader};

/// Longest value of a header that is stored.
const MAX_HEADER_BYTES: usize = 1024;

pub(super) fn md5_text(headers: &BlobHeaders) -> Option<String> {
    headers.content_md5.as_ref().map(|md5| STANDARD.encode(md5))
}

/// The MD5 in a header.
fn md5_of(request: &BlobRequest, name: &'static str) -> Result<Option<Vec<u8>>, BlobError> {
    let Some(text) = request.header(name)? else {
        return Ok(None);
    };
    let md5 = STANDARD.decode(text).ok().filter(|md5| md5.len() == 16);
    md5.map(Some).ok_or_else(|| {
        BlobError::new(
            StatusCode::BAD_REQUEST,
            "InvalidMd5",
            format!("{name} is no MD5 in base64"),
        )
    })
}

/// The MD5 that the body must have.
pub(super) fn body_md5(request: &BlobRequest) -> Result<Option<Vec<u8>>, BlobError> {
    md5_of(request, "content-md5")
}

/// Headers that readers shall get, as `x-ms-blob-…`; the type of a whole body may be its own.
pub(super) fn stored_headers(request: &BlobRequest, is_whole: bool) -> Result<BlobHeaders, BlobError> {
    let text = |name: &'static str, own: &'static str| {
        let value = match request.header(name)? {
            None if is_whole => request.header(own)?,
            value => value,
        };
        match value {
            Some(value) if value.len() > MAX_HEADER_BYTES => Err(BlobError::header(format!("{name} is too long"))),
            value => Ok(value.map(str::to_owned)),
        }
    };
    Ok(BlobHeaders {
        content_type: text("x-ms-blob-content-type", "content-type")?,
        content_encoding: text("x-ms-blob-content-encoding", "content-encoding")?,
        content_language: text("x-ms-blob-content-language", "content-language")?,
        content_disposition: text("x-ms-blob-content-disposition", "content-disposition")?,
        cache_control: text("x-ms-blob-cache-control", "cache-control")?,
        content_md5: match md5_of(request, "x-ms-blob-content-md5")? {
            None if is_whole => body_md5(request)?,
            md5 => md5,
        },
    })
}

/// What a writer says of a blob.
pub(super) fn new_blob(request: &BlobRequest, is_whole: bool, only_create: bool) -> Result<NewBlob, BlobError> {
    Ok(NewBlob {
        headers: stored_headers(request, is_whole)?,
        metadata: request.metadata()?,
        conditions: Conditions::of(&request.head.headers),
        only_create,
    })
}

pub(super) fn written(status: StatusCode, committed: Committed) -> Response<Body> {
    let mut response = empty(status);
    set(&mut response, "etag", &committed.etag.to_string());
    set(&mut response, "last-modified", &http_date(committed.modified));
    set(&mut response, "x-ms-request-server-encrypted", "false");
    response
}

pub(super) fn too_large(most: u64) -> BlobError {
    let text = format!("the body is larger than {most} bytes");
    BlobError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge", text)
}

pub(super) async fn put(
    store: &BlobStore,
    request: &BlobRequest,
    body: &mut Option<Body>,
    only_create: bool,
) -> Result<Response<Body>, BlobError> {
    match request.header("x-ms-blob-type")? {
        Some("BlockBlob") => {}
        Some("PageBlob" | "AppendBlob") => return Err(BlobError::unsupported("page and append blobs")),
        Some(_) => return Err(BlobError::header("x-ms-blob-type is not known")),
        None => {
            let text = "the header x-ms-blob-type is missing";
            return Err(BlobError::new(StatusCode::BAD_REQUEST, "MissingRequiredHeader", text));
        }
    }
    let length = request.content_length()?;
    let most = MAX_BLOB_PUT_BYTES.min(store.config().max_blob_size.bytes());
    if length > most {
        return Err(too_large(most));
    }
    let new = new_blob(request, true, only_create)?;
    let md5 = body_md5(request)?;
    store.check_space_for(length).await?;
    // A certain refusal comes before the body is read.
    store.container(request.container()).await?;
    store.check_new(request.container(), request.blob(), &new)?;
    store.check_before(request.container(), request.blob(), &new).await?;
    let content = match (length, body.take()) {
        (0, _) | (_, None) => None,
        (length, Some(body)) => Some(store.receive(body, length, md5).await?),
    };
    let committed = store
        .put_blob(request.container(), request.blob(), new, content)
        .await?;
    Ok(written(StatusCode::CREATED, committed))
}

/// The range of a request: its first byte and its length.
fn range(request: &BlobRequest, size: u64) -> Result<Option<(u64, u64)>, BlobError> {
    let text = match request.header("x-ms-range")? {
        None => request.header("range")?,
        text => text,
    };
    let Some(text) = text.and_then(|text| text.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    // Several ranges, and what is no range, are ignored (RFC 9110 §14.2).
    let Some((first, last)) = text.split_once('-') else {
        return Ok(None);
    };
    let unsatisfiable = || BlobError::range(size);
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let Ok(suffix) = last.parse::<u64>() else {
            return Ok(None);
        };
        let length = suffix.min(size);
        return match length {
            0 => Err(unsatisfiable()),
            length => Ok(Some((size - length, length))),
        };
    }
    let Ok(first) = first.parse::<u64>() else {
        return Ok(None);
    };
    let last = match last.is_empty() {
        true => u64::MAX,
        false => match last.parse::<u64>() {
            Ok(last) if last >= first => last,
            _ => return Ok(None),
        },
    };
    if first >= size {
        return Err(unsatisfiable());
    }
    Ok(Some((first, last.min(size - 1) - first + 1)))
}

/// The type of a blob; that of one that was written without.
pub(super) fn content_type(headers: &BlobHeaders) -> &str {
    headers.content_type.as_deref().unwrap_or("application/octet-stream")
}

fn describe(response: &mut Response<Body>, facts: &BlobFacts) {
    let headers = &facts.headers;
    for (name, value) in [
        ("etag", Some(facts.etag.to_string())),
        ("last-modified", Some(http_date(facts.modified))),
        ("x-ms-creation-time", Some(http_date(facts.created))),
        ("content-type", Some(content_type(headers).to_owned())),
        ("content-encoding", headers.content_encoding.clone()),
        ("content-language", headers.content_language.clone()),
        ("content-disposition", headers.content_disposition.clone()),
        ("cache-control", headers.cache_control.clone()),
        ("accept-ranges", Some("bytes".to_owned())),
        ("x-ms-blob-type", Some("BlockBlob".to_owned())),
        ("x-ms-lease-status", Some("unlocked".to_owned())),
        ("x-ms-lease-state", Some("available".to_owned())),
        ("x-ms-server-encrypted", Some("false".to_owned())),
    ] {
        if let Some(value) = value {
            set(response, name, &value);
        }
    }
    add_metadata(response, &facts.metadata);
}

pub(super) async fn properties(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let facts = store.blob(request.container(), request.blob()).await?;
    let facts = facts.ok_or(BlobStoreError::NoBlob)?;
    Conditions::of(&request.head.headers).check_read(facts.etag, facts.modified)?;
    let mut response = empty(StatusCode::OK);
    describe(&mut response, &facts);
    if request.head.method == http::Method::HEAD {
        set(&mut response, "content-length", &facts.size.to_string());
    }
    if let Some(md5) = md5_text(&facts.headers) {
        set(&mut response, "content-md5", &md5);
    }
    Ok(response)
}

pub(super) async fn get(
    store: &BlobStore,
    request: &BlobRequest,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, BlobError> {
    let (facts, opened) = store.open_blob(request.container(), request.blob()).await?;
    Conditions::of(&request.head.headers).check_read(facts.etag, facts.modified)?;
    let range = range(request, facts.size)?;
    let (start, length) = range.unwrap_or((0, facts.size));
    let content = opened.read(start, length).await?;
    let mut response = Response::new(body_of(store, content, place));
    describe(&mut response, &facts);
    set(&mut response, "content-length", &length.to_string());
    let md5 = md5_text(&facts.headers);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = start + length - 1;
        set(
            &mut response,
            "content-range",
            &format!("bytes {start}-{last}/{}", facts.size),
        );
        if let Some(md5) = md5 {
            set(&mut response, "x-ms-blob-content-md5", &md5);
        }
    } else if let Some(md5) = md5 {
        set(&mut response, "content-md5", &md5);
    }
    Ok(response)
}

/// The content as a body; the place is free again at its end.
fn body_of(store: &BlobStore, content: Reader, place: OwnedSemaphorePermit) -> Body {
    let read = store.metrics().read.clone();
    let chunks = stream::unfold((content, place, read), |(content, place, read)| async move {
        let (chunk, rest) = content.next().await?;
        if let Ok(chunk) = &chunk {
            read.increment(chunk.len() as u64);
        }
        let frame = chunk.map(Frame::data).map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a blob could not be read to its end"
            );
            Box::<dyn std::error::Error + Send + Sync>::from(error)
        });
        Some((frame, (rest, place, read)))
    });
    StreamBody::new(chunks).boxed_unsync()
}

pub(super) async fn set_metadata(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let (new, conditions) = (request.metadata()?, Conditions::of(&request.head.headers));
    let edited = store.edit_blob(request.container(), request.blob(), conditions, |metadata, _| {
        *metadata = new
    });
    Ok(written(StatusCode::OK, edited.await?))
}

pub(super) async fn set_properties(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let (new, conditions) = (stored_headers(request, false)?, Conditions::of(&request.head.headers));
    let edited = store.edit_blob(request.container(), request.blob(), conditions, |_, headers| {
        *headers = new
    });
    Ok(written(StatusCode::OK, edited.await?))
}

pub(super) async fn delete(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let conditions = Conditions::of(&request.head.headers);
    store
        .delete_blob(request.container(), request.blob(), conditions)
        .await?;
    let mut response = empty(StatusCode::ACCEPTED);
    set(&mut response, "x-ms-delete-type-permanent", "true");
    Ok(response)
}
