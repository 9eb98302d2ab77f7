//! Queries through any node, each page through another one, while everything breaks. The promises about them are
//! `holdfast_chaos::check::queries`.

use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::history::Micros;
use holdfast_chaos::history::queries::{Counted, SeenVersion, Walk};
use holdfast_device_hub::QueryPosition;
use holdfast_query::Query;
use rand::Rng as _;
use rand::rngs::SmallRng;
use serde_json::Value;

use crate::shared::Shared;

/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before a page is requested again.
const RETRY_MS: std::ops::Range<u64> = 20..200;
/// How often a page is requested before a query is given up: while everything is broken, another one is as good.
const ATTEMPTS: usize = 5;

/// A query that is asked again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All devices by a scan.
    Scan,
    /// Those that are never deleted, by the prefix of their ids.
    Prefix,
    /// Their number.
    Count,
    /// Their number, one group each.
    Groups,
    /// The versions of their twins.
    Versions,
}

const SHAPES: [Shape; 5] = [Shape::Scan, Shape::Prefix, Shape::Count, Shape::Groups, Shape::Versions];

impl Shape {
    fn text(self) -> &'static str {
        match self {
            Self::Scan => "SELECT deviceId FROM devices",
            Self::Prefix => "SELECT deviceId FROM devices WHERE STARTSWITH(deviceId, 'd')",
            Self::Count => "SELECT COUNT() AS n FROM devices WHERE deviceId < 'e' AND deviceId >= 'd'",
            Self::Groups => {
                "SELECT deviceId, COUNT() AS n FROM devices WHERE deviceId < 'e' AND deviceId >= 'd' GROUP BY deviceId"
            }
            Self::Versions => {
                "SELECT deviceId, properties.desired.$version AS v FROM devices WHERE STARTSWITH(deviceId, 'd')"
            }
        }
    }
}

/// Queries until the end; then each once more, until it is answered. `steady`: the devices whose ids begin with `d`; they are never
/// deleted.
pub(crate) async fn ask_at_random(shared: Rc<Shared>, steady: &'static [&'static str], mut rng: SmallRng) {
    while !shared.ending.get() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(150..600))).await;
        let shape = SHAPES[rng.random_range(0..SHAPES.len())];
        ask(&shared, shape, steady, &mut rng).await;
    }
    for shape in SHAPES {
        while !ask(&shared, shape, steady, &mut rng).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Asks for all pages; `false`: one of them was not answered.
async fn ask(shared: &Shared, shape: Shape, steady: &[&str], rng: &mut SmallRng) -> bool {
    let text = shape.text();
    let query = Query::parse(text).unwrap();
    let limit = rng.random_range(1..4);
    let asked = shared.now();
    let mut results: Vec<Value> = Vec::new();
    let mut position = QueryPosition::Start;
    loop {
        let Some((found, next)) = page(shared, text, &query, &position, limit, rng).await else {
            shared.note(format!("{text}: not answered"));
            return false;
        };
        results.extend(found);
        match next {
            Some(next) => position = next,
            None => break,
        }
    }
    shared.note(format!("{text}: {} results", results.len()));
    record(shared, shape, steady, asked, &results);
    true
}

async fn page(
    shared: &Shared,
    text: &str,
    query: &Query,
    position: &QueryPosition,
    limit: usize,
    rng: &mut SmallRng,
) -> Option<(Vec<Value>, Option<QueryPosition>)> {
    for _ in 0..ATTEMPTS {
        if let Some(access) = shared.any(rng) {
            let page = access.hub.query_page(text, query, position, limit, TIMEOUT);
            if let Some(Ok(page)) = access.call(page).await {
                let results = page.results.iter().map(|text| serde_json::from_str(text).unwrap());
                return Some((results.collect(), page.next));
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(RETRY_MS))).await;
    }
    None
}

fn record(shared: &Shared, shape: Shape, steady: &[&str], asked: Micros, results: &[Value]) {
    let answered = shared.now();
    let query = shape.text().to_owned();
    let devices = || {
        results
            .iter()
            .map(|result| result["deviceId"].as_str().unwrap().to_owned())
    };
    let history = &mut shared.history.borrow_mut().queries;
    match shape {
        Shape::Scan | Shape::Prefix => {}
        Shape::Count => {
            return history.counts.push(Counted {
                query,
                asked,
                answered,
                found: results.iter().map(|result| result["n"].as_u64().unwrap()).sum(),
                expected: steady.len() as u64,
            });
        }
        // Each group has one device; which ones there are is checked as a walk.
        Shape::Groups => history.counts.push(Counted {
            query: query.clone(),
            asked,
            answered,
            found: results.iter().filter(|result| result["n"] == 1).count() as u64,
            expected: steady.len() as u64,
        }),
        Shape::Versions => history.versions.extend(results.iter().map(|result| SeenVersion {
            device: result["deviceId"].as_str().unwrap().to_owned(),
            asked,
            answered,
            version: result["v"].as_u64().unwrap(),
        })),
    }
    history.walks.push(Walk {
        query,
        asked,
        answered,
        devices: devices().collect(),
        steady: steady.iter().map(|device| (*device).to_owned()).collect(),
    });
}
