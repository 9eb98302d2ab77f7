//! Saved queries under `/holdfast/v1/queries/saved` (docs/query.md, "Saved queries"). Unknown fields are refused.

use std::ops::Bound;
use std::sync::Arc;

use holdfast_device_hub::match_count;
use holdfast_model::ErrorCode;
use holdfast_query::Query;
use holdfast_registry::{IfMatch, RegistryError, SavedQuery, SavedQueryCondition, SavedQueryWrite};
use serde_json::{Value, json};

use super::super::super::error::ApiError;
use super::super::super::etag;
use super::super::super::json::{Fields, object, quoted};
use super::super::super::path::{page_size, query};
use super::super::super::timestamps;
use super::super::Request;
use super::{counted, page, refused, text};
use holdfast_net::http_api::Reply;

/// `GET …/saved?top=…&after=…`: in the order of names; `continuation` is the `after` of the next page, null on the last one.
pub(in super::super) async fn list(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = page_size(request.uri, "top")?;
    let after = query(request.uri, "after").filter(|after| !after.is_empty());
    let after = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_ascii_lowercase()));
    request.within(request.shared.registry().read_barrier()).await?;
    let saved = request.shared.registry().saved_queries();
    let mut rest = saved.range((after, Bound::Unbounded));
    let shown: Vec<&Arc<SavedQuery>> = rest.by_ref().take(top).map(|(_, query)| query).collect();
    let last = shown.last().filter(|_| rest.next().is_some());
    Ok(Reply::ok(json!({
        "queries": shown.iter().map(|query| document(query)).collect::<Vec<_>>(),
        "continuation": last.map(|query| query.name.as_str()),
    })))
}

/// `GET …/saved/{name}`.
pub(in super::super) async fn get(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let query = find(name, request).await?;
    Ok(Reply::ok(document(&query)).etag(&query.etag))
}

/// `PUT …/saved/{name}`: 201, or 200 when it existed. `If-None-Match: *` creates only, `If-Match` replaces only.
pub(in super::super) async fn put(name: &str, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let condition = match (etag::must_create(request.headers)?, request.if_match()?) {
        (true, None) => SavedQueryCondition::Absent,
        (true, Some(_)) => return Err(ApiError::invalid("a request has either If-Match or If-None-Match")),
        (false, None) => SavedQueryCondition::Any,
        (false, Some(if_match)) => SavedQueryCondition::Present(if_match),
    };
    let body = request.body.json().await?;
    let write = read(name, &object(&body)?, condition)?;
    let outcome = request.within(request.shared.registry().put_saved_query(&write)).await;
    let code = outcome.as_ref().err().map(RegistryError::code);
    request.audit("putSavedQuery", name, code);
    let (is_new, query) = outcome?;
    let status = if is_new { 201 } else { 200 };
    Ok(Reply::json(status, document(&query)).etag(&query.etag))
}

/// `DELETE …/saved/{name}`.
pub(in super::super) async fn delete(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let if_match = request.if_match()?.unwrap_or(IfMatch::Any);
    let removed = request.shared.registry().remove_saved_query(name, &if_match);
    let outcome = request.within(removed).await;
    let code = outcome.as_ref().err().map(RegistryError::code);
    request.audit("deleteSavedQuery", name, code);
    outcome?;
    Ok(Reply::no_content())
}

/// `GET` or `POST …/saved/{name}/devices`: a page of its results, as `POST /devices/query` answers it.
pub(in super::super) async fn run(name: &str, request: &Request<'_>) -> Result<Reply, ApiError> {
    let query = find(name, request).await?;
    counted(request, page(request, &query.query)).await
}

async fn find(name: &str, request: &Request<'_>) -> Result<Arc<SavedQuery>, ApiError> {
    request.within(request.shared.registry().read_barrier()).await?;
    let saved = request.shared.registry().saved_queries();
    let found = saved.get(&name.to_ascii_lowercase()).map(Arc::clone);
    found.ok_or_else(|| {
        let text = format!("saved query {} does not exist", quoted(name));
        ApiError::new(ErrorCode::GenericNotFound, text)
    })
}

fn read(name: &str, fields: &Fields<'_>, condition: SavedQueryCondition) -> Result<SavedQueryWrite, ApiError> {
    // Those that an answer has are accepted: clients send documents back.
    let known = ["name", "query", "description", "etag", "createdTime", "updatedTime"];
    if let Some(unknown) = fields.unknown(&known) {
        return Err(ApiError::invalid(format!("there is no field {}", quoted(unknown))));
    }
    if fields
        .text("name")?
        .is_some_and(|given| !given.eq_ignore_ascii_case(name))
    {
        return Err(ApiError::invalid("name differs from the name in the path"));
    }
    let text = text(fields)?;
    let query = Query::parse(text).map_err(refused)?;
    match_count(&query).map_err(|_| {
        ApiError::invalid("the query is too long to be saved: with all names written out, it has more characters than a query may have")
    })?;
    Ok(SavedQueryWrite {
        name: name.to_owned(),
        query: text.to_owned(),
        description: fields.text("description")?.map(str::to_owned),
        condition,
    })
}

fn document(query: &SavedQuery) -> Value {
    json!({
        "name": query.name,
        "query": query.query,
        "description": query.description,
        "etag": query.etag,
        "createdTime": timestamps::iso(Some(query.created)),
        "updatedTime": timestamps::iso(Some(query.updated)),
    })
}
