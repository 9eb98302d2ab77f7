//! A document as a query sees it.

use serde_json::{Map, Value as Json};

use crate::{Field, Segment, Value};

/// One device or module. An implementation need not have the document as JSON: a query asks for the parts that it reads.
pub trait Row {
    /// What `rest` leads to inside of the root property `field`; undefined where it leads nowhere.
    fn value<'a>(&'a self, field: Field, rest: &[Segment]) -> Value<'a>;

    /// The whole document, the result of `SELECT *`.
    fn document(&self) -> Json;
}

/// A row that is a JSON object.
#[derive(Clone, Copy, Debug)]
pub struct DocumentRow<'a>(pub &'a Map<String, Json>);

impl Row for DocumentRow<'_> {
    fn value<'a>(&'a self, field: Field, rest: &[Segment]) -> Value<'a> {
        match self.0.get(field.name()) {
            Some(json) => Value::at(json, rest),
            None => Value::Undefined,
        }
    }

    fn document(&self) -> Json {
        Json::Object(self.0.clone())
    }
}
