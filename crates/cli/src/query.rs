//! `holdfast query …`: devices and modules by a query, in the habits of `az iot hub query`.

use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_client::http::Answer;
use http::{HeaderName, Method};
use serde_json::{Value, json};

use crate::exit_code::Failure;
use crate::http::{Call, block_on, call, exchange};
use crate::hub::{Hub, LoginArgs};
use crate::output::{self, Format};
use crate::saved_query;

const PATH: &str = "/devices/query";
const EXPLAIN_PATH: &str = "/holdfast/v1/queries/explain";
const PAGE_SIZE: HeaderName = HeaderName::from_static("x-ms-max-item-count");
const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");

/// Results that one request gets at most.
const PAGE: usize = 1000;

/// How long the hub may search for a page beside the time of any call.
const PAGE_TIME: Duration = Duration::from_secs(30);

/// The columns of whole documents.
const TWIN_COLUMNS: [(&str, &str); 5] = [
    ("DEVICE", "/deviceId"),
    ("MODULE", "/moduleId"),
    ("STATUS", "/status"),
    ("CONNECTION", "/connectionState"),
    ("LAST ACTIVITY", "/lastActivityTime"),
];

/// Select devices and modules with the query language, and print the results
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Query {
    #[command(subcommand)]
    saved: Option<SavedCommand>,
    /// The query, as in "SELECT * FROM devices WHERE tags.site = 'A'"
    #[arg(value_name = "QUERY", required_unless_present = "command")]
    query: Option<String>,
    /// The query, as in `az iot hub query`
    #[arg(short = 'q', long = "query-command", value_name = "QUERY", conflicts_with = "query")]
    command: Option<String>,
    /// How many results at most [default: all]
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    top: Option<usize>,
    /// Print how the hub would find the results instead of the results; so does EXPLAIN before the query
    #[arg(long)]
    explain: bool,
    /// How to show the results
    #[arg(short, long, default_value = "json")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// The commands about queries under a name.
#[derive(Debug, Subcommand)]
pub(crate) enum SavedCommand {
    /// Save a query under a name, or change the one of that name
    Save(saved_query::Save),
    /// List the saved queries
    #[command(name = "saved")]
    List(saved_query::List),
    /// Print a saved query
    Show(saved_query::Show),
    /// Print the results of a saved query
    Run(saved_query::Run),
    /// Delete a saved query
    Delete(saved_query::Delete),
}

pub(crate) fn run(args: &Query) -> Result<(), Failure> {
    match &args.saved {
        None => {}
        Some(SavedCommand::Save(args)) => return saved_query::save(args),
        Some(SavedCommand::List(args)) => return saved_query::list(args),
        Some(SavedCommand::Show(args)) => return saved_query::show(args),
        Some(SavedCommand::Run(args)) => return saved_query::run(args),
        Some(SavedCommand::Delete(args)) => return saved_query::delete(args),
    }
    let text = args.query.as_ref().or(args.command.as_ref());
    let text = text.ok_or_else(|| Failure::usage("a query is missing"))?;
    let hub = args.login.hub()?;
    if let Some(text) = explained(text, args.explain) {
        let mut explain = Call::new(Method::POST, EXPLAIN_PATH.to_owned());
        explain.body = Some(json!({"query": text}));
        let plan = block_on(call(&hub, explain))?;
        return match args.output {
            Format::Json => output::show(&plan, Format::Json, &[]),
            Format::Table => crate::print(&output::text(&plan)),
        };
    }
    let body = json!({"query": text});
    let results = block_on(all(&hub, PATH, Some(&body), args.top.unwrap_or(usize::MAX)))?;
    print(results, args.output)
}

/// Prints the results of a query.
pub(crate) fn print(results: Vec<Value>, format: Format) -> Result<(), Failure> {
    let columns = columns(&results);
    let columns: Vec<(&str, &str)> = columns
        .iter()
        .map(|(title, at)| (title.as_str(), at.as_str()))
        .collect();
    output::show(&Value::Array(results), format, &columns)
}

/// The query to be explained, if it is.
fn explained(text: &str, is_wanted: bool) -> Option<&str> {
    let first = text.split_whitespace().next()?;
    if first.eq_ignore_ascii_case("EXPLAIN") {
        return Some(&text.trim_start()[first.len()..]);
    }
    is_wanted.then_some(text)
}

/// The first `top` results, page by page, of the requests with `body` to `path`.
pub(crate) async fn all(hub: &Hub, path: &str, body: Option<&Value>, top: usize) -> Result<Vec<Value>, Failure> {
    let mut results = Vec::new();
    let mut token = None;
    while results.len() < top {
        let size = (top - results.len()).min(PAGE).to_string();
        let mut page = Call::new(Method::POST, path.to_owned());
        page.body = body.cloned();
        page.device_wait = PAGE_TIME;
        page.headers.push((PAGE_SIZE, size));
        page.headers.extend(token.take().map(|token| (CONTINUATION, token)));
        let Answer { headers, body, .. } = exchange(hub, page).await?;
        if let Ok(Value::Array(page)) = serde_json::from_slice(&body) {
            results.extend(page);
        }
        token = headers
            .get(CONTINUATION)
            .and_then(|token| token.to_str().ok())
            .map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    results.truncate(top);
    Ok(results)
}

/// The columns of the results: those of a list for whole documents, else all keys in the order in which they come.
fn columns(results: &[Value]) -> Vec<(String, String)> {
    let is_document = |result: &Value| result.get("properties").is_some() && result.get("deviceEtag").is_some();
    if results.first().is_some_and(is_document) {
        let owned = |(title, at): &(&str, &str)| ((*title).to_owned(), (*at).to_owned());
        return TWIN_COLUMNS.iter().map(owned).collect();
    }
    let mut columns: Vec<(String, String)> = Vec::new();
    for name in results
        .iter()
        .filter_map(Value::as_object)
        .flat_map(serde_json::Map::keys)
    {
        let title = output::escape(name).into_owned();
        if !columns.iter().any(|(other, _)| *other == title) {
            columns.push((title, format!("/{}", name.replace('~', "~0").replace('/', "~1"))));
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_keys_of_all_results() {
        let results = [json!({"site": "A", "n": 2}), json!({"n": 1, "a/b~c": true})];
        let columns = columns(&results);
        let titles: Vec<&str> = columns.iter().map(|(title, _)| title.as_str()).collect();
        assert_eq!(titles, ["site", "n", "a/b~c"]);
        assert_eq!(results[1].pointer(&columns[2].1), Some(&json!(true)));
        assert!(super::columns(&[]).is_empty());
    }

    #[test]
    fn whole_documents_have_the_columns_of_a_list() {
        let twin = json!({"deviceId": "d", "deviceEtag": "x", "properties": {}});
        assert_eq!(columns(&[twin])[0].0, "DEVICE");
    }

    #[test]
    fn explain_is_a_word_or_an_option() {
        assert_eq!(explained(" explain SELECT 1", false), Some(" SELECT 1"));
        assert_eq!(explained("SELECT 1", true), Some("SELECT 1"));
        assert_eq!(explained("SELECT 1", false), None);
    }
}
