//! `POST /devices/query`: one page of a query over devices or modules (Spec query-and-routing §1; docs/query.md).

mod continuation;
pub(super) mod saved;

use holdfast_device_hub::{IndexPlan, QueryAccess, QueryExplanation, QueryFailure, QueryPage, QueryPosition};
use holdfast_model::limits::MAX_LIST_DEVICES;
use holdfast_model::{ErrorCode, PartitionId};
use holdfast_query::{Query, QueryError, Select};
use serde_json::json;

use super::super::error::ApiError;
use super::super::json::{Fields, object};
use super::super::route::MAX_QUERY_TIME;
use super::Request;
use continuation::Continuation;
use holdfast_net::http_api::Reply;

const PAGE_SIZE: &str = "x-ms-max-item-count";
const CONTINUATION: &str = "x-ms-continuation";
/// SDKs need it, and in this case of letters.
const ITEM_TYPE: &str = "x-ms-item-type";

/// Results of a page unless the client says how many.
const DEFAULT_PAGE: usize = 100;

pub(super) async fn run(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    counted(&request, async { page(&request, text(&object(&body)?)?).await }).await
}

/// Counts how the query ends.
async fn counted(
    request: &Request<'_>,
    page: impl Future<Output = Result<Reply, ApiError>>,
) -> Result<Reply, ApiError> {
    let metrics = &request.shared.metrics;
    let page = page.await;
    match &page {
        Ok(_) => metrics.queries_succeeded.increment(1),
        Err(_) => metrics.queries_failed.increment(1),
    }
    page
}

/// The page of the query `text` for which the request's headers ask.
async fn page(request: &Request<'_>, text: &str) -> Result<Reply, ApiError> {
    let query = Query::parse(text).map_err(refused)?;
    let begin = match header(request, CONTINUATION)? {
        None | Some("") => Continuation::start(&query),
        Some(token) => Continuation::read(token, &query)?,
    };
    let limit = begin.limit(page_size(request)?);
    let page = match limit {
        0 => QueryPage {
            results: Vec::new(),
            next: None,
        },
        limit => {
            let hub = &request.shared.hub;
            let page = hub.query_page(text, &query, &begin.position, limit, MAX_QUERY_TIME);
            page.await.map_err(failed)?
        }
    };
    let bytes: usize = page.results.iter().map(String::len).sum();
    #[expect(clippy::cast_precision_loss, reason = "a page has some MiB")]
    request.shared.metrics.query_bytes.record(bytes as f64);
    let item_type = match query.select {
        Select::All => "Twin",
        Select::Columns(_) => "Raw",
    };
    let reply = Reply::array(&page.results).header(ITEM_TYPE, item_type);
    // Without a next page the header is absent: an empty one is an endless loop in two SDKs.
    match begin.next(page.results.len(), page.next) {
        Some(next) => Ok(reply.header(CONTINUATION, &next.token(&query)?)),
        None => Ok(reply),
    }
}

/// `POST /holdfast/v1/queries/explain`: how a query would be carried out.
pub(super) async fn explain(mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(name) = fields.unknown(&["query"]) {
        let name = super::super::json::quoted(name);
        return Err(ApiError::invalid(format!("there is no field {name}")));
    }
    let text = text(&fields)?;
    let query = Query::parse(text).map_err(refused)?;
    let QueryExplanation { plan, index } = request.shared.hub.explain_query(text, &query).await;
    let statistics = request.within(request.shared.registry().statistics()).await?;
    let identities = match query.collection {
        holdfast_query::Collection::Devices => statistics.devices,
        holdfast_query::Collection::Modules => statistics.modules,
    };
    let (access, visited) = match plan.access {
        QueryAccess::Scan => (scan(&index), identities),
        QueryAccess::Prefix => ("prefix of deviceId".to_owned(), identities),
        QueryAccess::Ids(count) => ("deviceId".to_owned(), identities.min(count as u64)),
    };
    let mut reads = vec!["identity"];
    if plan.reads_connections {
        reads.push("connection");
    }
    if plan.reads_twins {
        reads.push("twin");
    }
    let mut answer = json!({
        "query": query.to_string(),
        "access": access,
        "partitions": plan.partitions.len(),
        "conditionReads": reads,
        "visitedAtMost": visited,
    });
    match &index {
        IndexPlan::None => {}
        IndexPlan::Used { hits, .. } => answer["indexHits"] = json!(hits),
        IndexPlan::Unused {
            path,
            incomplete,
            has_too_many_hits,
        } => answer["indexNotUsed"] = json!(not_used(path, incomplete, *has_too_many_hits)),
    }
    Ok(Reply::ok(answer))
}

/// Where a query that does not name its devices finds them.
fn scan(index: &IndexPlan) -> String {
    match index {
        IndexPlan::Used { path, .. } => format!("index {path}"),
        IndexPlan::None | IndexPlan::Unused { .. } => "scan".to_owned(),
    }
}

/// Why owners scan although there is an index.
fn not_used(path: &str, incomplete: &[PartitionId], has_too_many_hits: bool) -> String {
    let mut reasons = Vec::new();
    if !incomplete.is_empty() {
        let partitions: Vec<String> = incomplete.iter().map(|partition| partition.0.to_string()).collect();
        reasons.push(format!("is not complete on partitions {}", partitions.join(", ")));
    }
    if has_too_many_hits {
        reasons.push("has too many hits in this range".to_owned());
    }
    format!("the index {path} {}", reasons.join(" and "))
}

fn text<'a>(fields: &Fields<'a>) -> Result<&'a str, ApiError> {
    fields
        .text("query")?
        .ok_or_else(|| ApiError::invalid("the field query is missing"))
}

fn header<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a str>, ApiError> {
    let value = request.headers.get(name).map(|value| value.to_str());
    let value = value.transpose();
    value.map_err(|_| ApiError::invalid(format!("the header {name} is not text")))
}

/// A number outside 1 to the maximum counts as the nearest one.
fn page_size(request: &Request<'_>) -> Result<usize, ApiError> {
    let Some(text) = header(request, PAGE_SIZE)?.filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_PAGE);
    };
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::invalid(format!(
            "the header {PAGE_SIZE} must be a whole number"
        )));
    }
    if digits.len() < text.len() {
        return Ok(1);
    }
    Ok(text.parse().unwrap_or(MAX_LIST_DEVICES).clamp(1, MAX_LIST_DEVICES))
}

fn refused(error: QueryError) -> ApiError {
    ApiError::invalid(format!("the query is not valid: {error}"))
}

fn failed(failure: QueryFailure) -> ApiError {
    match failure {
        QueryFailure::Registry(error) => error.into(),
        QueryFailure::Twin(error) => error.into(),
        QueryFailure::NoOwner(_) => ApiError::new(ErrorCode::PartitionNotFound, failure.to_string()),
        QueryFailure::TooSlow => ApiError::new(ErrorCode::GatewayTimeout, failure.to_string()),
        QueryFailure::Refused { .. } => ApiError::new(ErrorCode::ServiceUnavailable, failure.to_string()),
    }
}

impl Continuation {
    /// The results of a page that the client wants to have at most `page` of.
    fn limit(&self, page: usize) -> usize {
        let left = self.left.map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        page.min(left.unwrap_or(usize::MAX))
    }

    /// Where the page after one of `count` results begins; `None` when that was the last one.
    fn next(&self, count: usize, position: Option<QueryPosition>) -> Option<Self> {
        let left = self.left.map(|left| left.saturating_sub(count as u64));
        let position = position.filter(|_| left != Some(0))?;
        Some(Self { position, left })
    }
}
