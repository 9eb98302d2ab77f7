//! The OpenAPI document of our own API, as `GET /holdfast/v1/openapi.json` serves it (OpenAPI 3.0.3).
//!
//! Why: operators generate clients from it, and test tools check the hub against it.
//! Invariant: each call under `/holdfast/v1` is in it and each operation in it is a call; a test compares both.
//! Not here: the calls of the Azure SDKs, which Azure documents.

mod operations;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use operations::{Answer, OPERATIONS, Operation};

/// The prefix of all paths of the document.
const BASE: &str = "/holdfast/v1";

/// Shapes of bodies.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

/// The document.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut paths = Map::new();
        for operation in OPERATIONS {
            let path = paths.entry(format!("{BASE}{}", operation.path)).or_insert_with(|| json!({}));
            path[operation.method.to_ascii_lowercase()] = describe(operation);
        }
        let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
        json!({
            "openapi": "3.0.3",
            "info": {
                "title": "Holdfast",
                "description": "The hub's own API: settings, credentials, cluster, diagnosis. Everything else speaks Azure IoT Hub's API.",
                "version": env!("CARGO_PKG_VERSION"),
                "license": {"name": env!("CARGO_PKG_LICENSE")},
            },
            "paths": paths,
            "security": [{"token": []}],
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "token": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "Authorization",
                        "description": "A shared access signature of a policy: SharedAccessSignature sr=…&sig=…&se=…&skn=…",
                    },
                },
            },
        })
    })
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters(operation),
        "responses": responses(operation),
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": body.required,
            "content": {body.media_type: {"schema": schema(body.schema)}},
        });
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let pattern = match name {
            "id" | "moduleId" => "^[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,128}$",
            "name" => "^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$",
            "entry" => "^[0-9a-f]{64}(-[0-9a-f]+)?$",
            _ => "^[^/]+$",
        };
        Some(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "pattern": pattern}}))
    });
    let in_query = operation.query.iter().map(|(name, schema)| {
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        json!({"name": name, "in": "query", "required": false, "schema": schema})
    });
    let in_header = operation
        .headers
        .iter()
        .map(|name| json!({"name": name, "in": "header", "required": false, "schema": {"type": "string"}}));
    in_path.chain(in_query).chain(in_header).collect()
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for Answer { status, schema: name } in operation.answers {
        let mut response = json!({"description": "done"});
        if let Some(name) = name {
            response["content"] = json!({"application/json": {"schema": schema(name)}});
        }
        responses.insert(status.to_string(), response);
    }
    let error = json!({"application/json": {"schema": schema("Error")}});
    responses.insert(
        "default".to_owned(),
        json!({"description": "refused; the body has the number of the error", "content": error}),
    );
    Value::Object(responses)
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
