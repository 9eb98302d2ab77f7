//! Operations on containers, and lists.

use holdfast_net::Body;
use http::{Response, StatusCode};

use super::error::BlobError;
use super::request::{BlobRequest, http_date};
use super::xml::Element;
use super::{Conditions, empty, set, xml};
use crate::BlobStore;
use crate::store::{ContainerFacts, ETag, ListedBlob, Listing, Metadata};

/// Most entries of a page.
const MAX_PAGE: usize = 5000;

fn describe(response: &mut Response<Body>, facts: &ContainerFacts) {
    set(response, "etag", &facts.etag.to_string());
    set(response, "last-modified", &http_date(facts.modified));
}

/// Metadata as headers.
pub(super) fn add_metadata(response: &mut Response<Body>, metadata: &Metadata) {
    for (name, value) in metadata {
        let name = http::HeaderName::from_bytes(format!("x-ms-meta-{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
}

pub(super) async fn create(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    if request.header("x-ms-blob-public-access")?.is_some() {
        return Err(BlobError::unsupported("access without a signature"));
    }
    let facts = store.create_container(request.container(), request.metadata()?).await?;
    let mut response = empty(StatusCode::CREATED);
    describe(&mut response, &facts);
    Ok(response)
}

pub(super) async fn get(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let facts = store.container(request.container()).await?;
    let mut response = empty(StatusCode::OK);
    describe(&mut response, &facts);
    add_metadata(&mut response, &facts.metadata);
    for (name, value) in [
        ("x-ms-lease-status", "unlocked"),
        ("x-ms-lease-state", "available"),
        ("x-ms-has-immutability-policy", "false"),
        ("x-ms-has-legal-hold", "false"),
    ] {
        set(&mut response, name, value);
    }
    Ok(response)
}

pub(super) async fn delete(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let conditions = Conditions::of(&request.head.headers);
    store.delete_container(request.container(), conditions).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

pub(super) async fn set_metadata(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let conditions = Conditions::of(&request.head.headers);
    let metadata = request.metadata()?;
    let facts = store
        .set_container_metadata(request.container(), metadata, conditions)
        .await?;
    let mut response = empty(StatusCode::OK);
    describe(&mut response, &facts);
    Ok(response)
}

/// The page that a request asks for, and the number that it has named.
fn listing(request: &BlobRequest) -> Result<Listing, BlobError> {
    let most = match request.parameter("maxresults") {
        None | Some("") => MAX_PAGE,
        Some(text) => {
            let number = text.parse::<usize>().ok().filter(|number| *number > 0);
            number
                .ok_or_else(|| BlobError::query("maxresults is a number from 1 on"))?
                .min(MAX_PAGE)
        }
    };
    let text = |name| request.parameter(name).unwrap_or_default().to_owned();
    Ok(Listing {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        marker: text("marker"),
        most,
    })
}

fn begin(request: &BlobRequest, listing: &Listing, container: Option<&str>) -> Element {
    let host = request.header("host").ok().flatten().unwrap_or_default();
    let endpoint = format!("https://{host}/");
    let mut attributes = vec![("ServiceEndpoint", &*endpoint)];
    attributes.extend(container.map(|container| ("ContainerName", container)));
    let mut page = Element::with_attributes("EnumerationResults", &attributes);
    for (name, value) in [
        ("Prefix", &listing.prefix),
        ("Marker", &listing.marker),
        ("Delimiter", &listing.delimiter),
    ] {
        if !value.is_empty() {
            page.text(name, value);
        }
    }
    page.text("MaxResults", &listing.most.to_string());
    page
}

fn version(page: &mut Element, etag: ETag, modified: holdfast_model::UnixMillis) {
    page.text("Last-Modified", &http_date(modified));
    page.text("Etag", etag.to_string().trim_matches('"'));
}

fn metadata(page: &mut Element, metadata: &Metadata) {
    page.begin("Metadata");
    for (name, value) in metadata {
        page.text(name, value);
    }
    page.end();
}

fn includes(request: &BlobRequest, what: &str) -> bool {
    let include = request.parameter("include").unwrap_or_default();
    include.split(',').any(|one| one.eq_ignore_ascii_case(what))
}

pub(super) async fn list(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let listing = listing(request)?;
    let mut page = begin(request, &listing, None);
    let listed = store.list_containers(listing).await?;
    page.begin("Containers");
    for (name, facts) in &listed.entries {
        page.begin("Container");
        page.text("Name", name);
        page.begin("Properties");
        version(&mut page, facts.etag, facts.modified);
        page.text("LeaseStatus", "unlocked");
        page.text("LeaseState", "available");
        page.text("HasImmutabilityPolicy", "false");
        page.text("HasLegalHold", "false");
        page.end();
        if includes(request, "metadata") {
            metadata(&mut page, &facts.metadata);
        }
        page.end();
    }
    page.end();
    page.text("NextMarker", listed.next.as_deref().unwrap_or_default());
    Ok(xml(StatusCode::OK, page.finish()))
}

pub(super) async fn list_blobs(store: &BlobStore, request: &BlobRequest) -> Result<Response<Body>, BlobError> {
    let listing = listing(request)?;
    let mut page = begin(request, &listing, Some(request.container()));
    let listed = store.list_blobs(request.container(), listing).await?;
    page.begin("Blobs");
    for entry in &listed.entries {
        match entry {
            ListedBlob::Prefix(name) => {
                page.begin("BlobPrefix");
                page.text("Name", name);
                page.end();
            }
            ListedBlob::Blob(name, facts) => {
                page.begin("Blob");
                page.text("Name", name);
                page.begin("Properties");
                page.text("Creation-Time", &http_date(facts.created));
                version(&mut page, facts.etag, facts.modified);
                page.text("Content-Length", &facts.size.to_string());
                let headers = &facts.headers;
                page.text("Content-Type", super::blobs::content_type(headers));
                for (name, value) in [
                    ("Content-Encoding", &headers.content_encoding),
                    ("Content-Language", &headers.content_language),
                    ("Content-Disposition", &headers.content_disposition),
                    ("Cache-Control", &headers.cache_control),
                ] {
                    page.text(name, value.as_deref().unwrap_or_default());
                }
                page.text("Content-MD5", &super::blobs::md5_text(headers).unwrap_or_default());
                page.text("BlobType", "BlockBlob");
                page.text("LeaseStatus", "unlocked");
                page.text("LeaseState", "available");
                page.text("ServerEncrypted", "false");
                page.end();
                if includes(request, "metadata") {
                    metadata(&mut page, &facts.metadata);
                }
                page.end();
            }
        }
    }
    page.end();
    page.text("NextMarker", listed.next.as_deref().unwrap_or_default());
    Ok(xml(StatusCode::OK, page.finish()))
}
