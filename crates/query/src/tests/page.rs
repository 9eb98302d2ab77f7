//! Runs every row of the tables in `docs/query.md`.

use std::path::Path;

use serde_json::Value as Json;

use crate::{Aggregator, Collection, DocumentRow, Query, Row};

/// The JSON block of the page below `heading`.
fn documents(page: &str, heading: &str) -> Vec<Json> {
    let block = page.split_once(heading).unwrap().1;
    let block = block.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    serde_json::from_str(block).unwrap()
}

fn results(query: &Query, documents: &[Json]) -> Vec<Json> {
    let rows: Vec<_> = documents
        .iter()
        .map(|document| DocumentRow(document.as_object().unwrap()))
        .collect();
    let selected = rows.iter().filter(|row| query.selects(*row));
    let top = usize::try_from(query.top.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    if query.is_aggregate() {
        let mut aggregator = Aggregator::new(query, None, 1000);
        selected.for_each(|row| aggregator.add(row));
        return aggregator.finish().0.into_iter().take(top).collect();
    }
    selected.map(|row| query.project(row)).take(top).collect()
}

/// `SELECT *` is shown by its identities: the page need not repeat whole documents.
fn shown(query: &Query, results: Vec<Json>) -> Json {
    if query.select != crate::Select::All {
        return Json::Array(results);
    }
    let ids = results.iter().map(|document| {
        let row = DocumentRow(document.as_object().unwrap());
        let device = row.value(crate::Field::DeviceId, &[]).to_json();
        let module = row.value(crate::Field::ModuleId, &[]).to_json();
        let ids = [device, module].into_iter().flatten();
        ids.map(|id| id.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("/")
    });
    Json::String(ids.collect::<Vec<_>>().join(" "))
}

#[test]
fn every_example_of_the_page_has_its_result() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/query.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (devices, modules) = (documents(&page, "The devices:"), documents(&page, "The modules:"));
    let mut run = 0;
    let mut wrong = Vec::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("`SELECT"))
    {
        let mut cells = line.trim_matches('|').split(" | ").skip(1);
        let text = cells.next().unwrap().trim().trim_matches('`');
        let expected = cells.next().unwrap().trim().trim_matches('`');
        let found = match Query::parse(text) {
            Err(error) => error.to_string(),
            Ok(query) => {
                let documents = if query.collection == Collection::Devices {
                    &devices
                } else {
                    &modules
                };
                match shown(&query, results(&query, documents)) {
                    Json::String(ids) if ids.is_empty() => "none".to_owned(),
                    Json::String(ids) => ids,
                    other => other.to_string(),
                }
            }
        };
        let same = match (
            serde_json::from_str::<Json>(expected),
            serde_json::from_str::<Json>(&found),
        ) {
            (Ok(expected), Ok(found)) => expected == found,
            _ => expected == found,
        };
        if !same {
            wrong.push(format!("{text}\n  page:  {expected}\n  found: {found}"));
        }
        run += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(run >= 100, "the page has {run} examples");
}
