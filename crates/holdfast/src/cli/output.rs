//! How results are shown: JSON for programs, tables and text for people.

use clap::ValueEnum;
use serde_json::Value;

use crate::exit::Failure;

/// The forms that `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Indented JSON
    Json,
    /// Columns
    Table,
}

/// Shows one JSON document.
pub(crate) fn show(value: &Value, format: Format, columns: &[(&str, &str)]) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let mut text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
            text.push('\n');
            super::print(&text)
        }
        Format::Table => {
            let rows = match value {
                Value::Array(rows) => rows.clone(),
                row => vec![row.clone()],
            };
            super::print(&table(&rows, columns))
        }
    }
}

/// Columns of the values at JSON pointers.
pub(super) fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect()),
    );
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A JSON document as indented text, for documents without fixed columns.
pub(crate) fn text(value: &Value) -> String {
    fn walk(value: &Value, indent: usize, out: &mut String) {
        let pad = "  ".repeat(indent);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::Object(inner) if !inner.is_empty() => {
                            out.push_str(&format!("{pad}{name}:\n"));
                            walk(value, indent + 1, out);
                        }
                        Value::Array(items) if !items.is_empty() => {
                            out.push_str(&format!("{pad}{name}:\n"));
                            walk(value, indent + 1, out);
                        }
                        _ => out.push_str(&format!("{pad}{name}: {}\n", scalar(value))),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    match item {
                        // One line per entry reads best for lists of small records.
                        Value::Object(fields) => {
                            let parts: Vec<String> = fields
                                .iter()
                                .map(|(name, value)| format!("{name}={}", scalar(value)))
                                .collect();
                            out.push_str(&format!("{pad}- {}\n", parts.join("  ")));
                        }
                        other => out.push_str(&format!("{pad}- {}\n", scalar(other))),
                    }
                }
            }
            other => out.push_str(&format!("{pad}{}\n", scalar(other))),
        }
    }
    fn scalar(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        }
    }
    let mut out = String::new();
    walk(value, 0, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell() {
        let rows = [
            json!({"id": "a", "auth": {"type": "sas"}}),
            json!({"id": "device-2", "n": 5}),
        ];
        assert_eq!(
            table(&rows, &[("ID", "/id"), ("AUTH", "/auth/type"), ("N", "/n")]),
            "ID        AUTH  N\na         sas   -\ndevice-2  -     5\n"
        );
    }

    #[test]
    fn nested_documents_are_shown_as_indented_text() {
        let value =
            json!({"device": "d", "session": null, "state": {"a": 1}, "last": [{"code": 401002, "why": "expired"}]});
        assert_eq!(
            text(&value),
            "device: d\nsession: -\nstate:\n  a: 1\nlast:\n  - code=401002  why=expired\n"
        );
    }
}
