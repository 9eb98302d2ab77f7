//! `holdfast query save|saved|show|run|delete`: queries under a name, each with a gauge of its matches.

use clap::Args;
use http::{HeaderName, Method, header};
use serde_json::{Value, json};

use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::{Hub, LoginArgs};
use crate::output::{self, Format};
use crate::query;

/// Where the REST API has them (docs/query.md).
pub(crate) const PATH: &str = "/holdfast/v1/queries/saved";
const IF_NONE_MATCH: HeaderName = header::IF_NONE_MATCH;

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// 1 to 50 letters, digits and . - _
    #[arg(value_name = "NAME")]
    name: String,
    /// The query, as in "SELECT * FROM devices WHERE tags.site = 'A'"
    #[arg(value_name = "QUERY")]
    query: String,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Only if there is none with that name
    #[arg(long, conflicts_with = "etag")]
    new: bool,
    /// Only if the saved query has this ETag
    #[arg(long, short = 'e')]
    etag: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// How to show them
    #[arg(short, long, default_value = "table")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// How many results at most [default: all]
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    top: Option<usize>,
    /// How to show the results
    #[arg(short, long, default_value = "json")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// Only if the saved query has this ETag
    #[arg(long, short = 'e')]
    etag: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn save(args: &Save) -> Result<(), Failure> {
    let mut save = Call::new(Method::PUT, path(&args.name));
    save.body = Some(json!({"query": args.query, "description": args.description}));
    save.if_match = args.etag.as_deref();
    if args.new {
        save.headers.push((IF_NONE_MATCH, "*".to_owned()));
    }
    let saved = block_on(call(&args.login.hub()?, save))?;
    output::show(&saved, Format::Json, &[])
}

pub(crate) fn list(args: &List) -> Result<(), Failure> {
    let queries = block_on(all(&args.login.hub()?))?;
    let columns = [("NAME", "/name"), ("QUERY", "/query"), ("DESCRIPTION", "/description")];
    output::show(&Value::Array(queries), args.output, &columns)
}

pub(crate) fn show(args: &Show) -> Result<(), Failure> {
    let saved = block_on(call(&args.login.hub()?, Call::new(Method::GET, path(&args.name))))?;
    output::show(&saved, Format::Json, &[])
}

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let path = format!("{}/devices", path(&args.name));
    let hub = args.login.hub()?;
    let results = block_on(query::all(&hub, &path, None, args.top.unwrap_or(usize::MAX)))?;
    query::print(results, args.output)
}

pub(crate) fn delete(args: &Delete) -> Result<(), Failure> {
    let mut delete = Call::new(Method::DELETE, path(&args.name));
    delete.if_match = args.etag.as_deref();
    block_on(call(&args.login.hub()?, delete)).map(|_| ())
}

fn path(name: &str) -> String {
    format!("{PATH}/{}", encode(name))
}

/// All saved queries, page by page.
async fn all(hub: &Hub) -> Result<Vec<Value>, Failure> {
    let mut queries = Vec::new();
    let mut after = String::new();
    loop {
        let parameters = format!("after={}", encode(&after));
        let mut list = Call::new(Method::GET, PATH.to_owned());
        list.query = &parameters;
        let page = call(hub, list).await?;
        queries.extend(page["queries"].as_array().into_iter().flatten().cloned());
        match page["continuation"].as_str() {
            Some(name) if name != after => after = name.to_owned(),
            _ => return Ok(queries),
        }
    }
}
