//! Results of queries without aggregates.

use serde_json::{Map, Value as Json};

use crate::{Output, Query, Row, Select};

impl Query {
    /// The result for a selected row: its document, or an object of the columns that are defined. Of aggregates, which an
    /// [`crate::Aggregator`] computes, it has nothing.
    #[must_use]
    pub fn project<R: Row>(&self, row: &R) -> Json {
        let Select::Columns(columns) = &self.select else {
            return row.document();
        };
        let mut object = Map::with_capacity(columns.len());
        for column in columns {
            let Output::Path(path) = &column.output else { continue };
            if let Some(value) = path.value(row).to_json() {
                object.insert(column.name.clone(), value);
            }
        }
        Json::Object(object)
    }
}
