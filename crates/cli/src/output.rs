//! How results are shown: JSON for programs, tables and text for people.
//!
//! Invariant: text that a device or a back end has written cannot control the terminal or forge a line: control
//! characters and bidirectional marks leave this file escaped, in every form.

use std::borrow::Cow;

use clap::ValueEnum;
use serde_json::Value;

use crate::exit_code::Failure;

/// The forms that `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Indented JSON
    Json,
    /// Columns
    Table,
}

/// Shows one JSON document.
pub(crate) fn show(value: &Value, format: Format, columns: &[(&str, &str)]) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
            crate::print(&format!("{}\n", escape_except(&text, &['\n'])))
        }
        Format::Table => {
            let rows = match value {
                Value::Array(rows) => rows.clone(),
                row => vec![row.clone()],
            };
            crate::print(&table(&rows, columns))
        }
    }
}

/// Columns of the values at JSON pointers.
pub(crate) fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        Some(Value::Null) | None => "-".to_owned(),
        Some(value) => plain(value),
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
                    let name = escape(name);
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
                                .map(|(name, value)| format!("{}={}", escape(name), scalar(value)))
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
            Value::Null => "-".to_owned(),
            value => plain(value),
        }
    }
    let mut out = String::new();
    walk(value, 0, &mut out);
    out
}

/// One value on one line: text without quotes, anything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text).into_owned(),
        other => json_line(other),
    }
}

/// JSON on one line.
pub(crate) fn json_line(value: &Value) -> String {
    escape(&value.to_string()).into_owned()
}

/// Text that stays on its line and is shown as it is, whatever its sender put into it. Inside JSON the result means the
/// same as before.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, &[])
}

fn escape_except<'a>(text: &'a str, allowed: &[char]) -> Cow<'a, str> {
    let is_escaped = |c: char| is_control(c) && !allowed.contains(&c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_escaped(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Characters that a terminal obeys instead of showing: C0 and C1 controls, line separators, bidirectional marks.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn control_characters_are_escaped_in_every_form() {
        let hostile = "a\u{1b}[31m\nforged\u{9b}8m\u{202e}\u{7f}";
        let safe = "a\\u001b[31m\\nforged\\u009b8m\\u202e\\u007f";
        assert_eq!(escape(hostile), safe);
        assert_eq!(escape("ünïcode ok"), "ünïcode ok");
        let value = json!({"k\n": hostile});
        assert_eq!(json_line(&value), format!("{{\"k\\n\":\"{safe}\"}}"));
        assert_eq!(serde_json::from_str::<Value>(&json_line(&value)).unwrap(), value);
        assert_eq!(text(&value), format!("k\\n: {safe}\n"));
        assert_eq!(table(&[json!({"a": hostile})], &[("A", "/a")]), format!("A\n{safe}\n"));
    }

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
