//! Reading the configuration: file, then environment, then flags; every mistake found, each with its place.
//!
//! Invariant: nothing unknown is ignored. A key that the hub does not know is a typing mistake that would otherwise
//! be found in an outage.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeArray, DeTable, DeValue};

use super::key::{Key, Value};
use super::keys::keys;
use super::{Config, Problem};

/// The prefix of the variables that the hub reads.
const PREFIX: &str = "HOLDFAST_";

/// Two names are near when they differ in fewer places than this part of their length.
const NEAR: f64 = 0.62;

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, PartialEq)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The sources of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Sources<'a> {
    /// The file's name and text.
    pub(crate) file: Option<(&'a Path, &'a str)>,
    /// The process environment, all of it.
    pub(crate) environment: Vec<(String, String)>,
    /// `--set KEY=VALUE`, in order.
    pub(crate) set: Vec<String>,
}

/// Builds a configuration on top of `defaults`.
///
/// # Errors
/// All problems at once, in the order of the sources; within the file in the order of the lines.
pub(crate) fn load(defaults: Config, sources: &Sources<'_>) -> Result<Config, Problems> {
    let mut loader = Loader {
        keys: keys(),
        config: defaults,
        problems: Vec::new(),
        places: Vec::new(),
    };
    if let Some((name, text)) = sources.file {
        loader.file(&name.display().to_string(), text);
    }
    for (name, value) in &sources.environment {
        loader.variable(name, value);
    }
    for assignment in &sources.set {
        loader.assignment(assignment);
    }
    if loader.problems.is_empty() {
        for Problem { key, message } in loader.config.validate() {
            let place = loader.places.iter().rev().find(|(path, _)| **path == key);
            let place = place.map_or_else(|| "default value".to_owned(), |(_, place)| place.clone());
            loader.problems.push(format!("{place}: {key}: {message}"));
        }
    }
    if loader.problems.is_empty() {
        Ok(loader.config)
    } else {
        Err(Problems(loader.problems))
    }
}

struct Loader {
    keys: Vec<Key>,
    config: Config,
    problems: Vec<String>,
    /// Where each key was last set.
    places: Vec<(&'static str, String)>,
}

impl Loader {
    fn file(&mut self, name: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match DeTable::parse(text) {
            Err(error) => {
                let line = line_of(text, error.span().unwrap_or(0..0));
                self.problems.push(format!("{name}:{line}: {}", error.message()));
            }
            Ok(table) => {
                let mut found = Vec::new();
                collect(table.get_ref(), "", &mut found);
                found.sort_by_key(|entry| entry.span.start);
                for entry in found {
                    let place = format!("{name}:{}", line_of(text, entry.span));
                    self.put(&entry.path, &entry.value, place);
                }
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        if let Some(key) = self.keys.iter().find(|key| key.variable() == name) {
            self.put(
                key.path,
                &Value::Bare(value.to_owned()),
                format!("environment variable {name}"),
            );
            return;
        }
        if is_service_link(rest) {
            return;
        }
        // Only names inside one of our sections can be meant for the configuration.
        let section = rest.split('_').next().unwrap_or_default().to_ascii_lowercase();
        if self
            .keys
            .iter()
            .any(|key| key.section().split('.').next() == Some(section.as_str()))
        {
            let names = self.keys.iter().map(Key::variable).collect::<Vec<_>>();
            let hint = nearest(name, names.iter().map(String::as_str));
            self.problems
                .push(format!("environment variable {name}: no key has this name{hint}"));
        }
    }

    fn assignment(&mut self, assignment: &str) {
        match assignment.split_once('=') {
            Some((path, value)) => {
                let place = format!("--set {assignment}");
                self.put(path.trim(), &Value::Bare(value.trim().to_owned()), place);
            }
            None => self
                .problems
                .push(format!("--set {assignment}: write it as section.key=value")),
        }
    }

    fn put(&mut self, path: &str, value: &Value, place: String) {
        match self.keys.iter().find(|key| key.path == path) {
            None => {
                let hint = nearest(path, self.keys.iter().map(|key| key.path));
                self.problems.push(format!("{place}: unknown key {path}{hint}"));
            }
            Some(key) => {
                if let Err(message) = key.set(&mut self.config, value) {
                    self.problems.push(format!("{place}: {path}: {message}"));
                }
                self.places.push((key.path, place));
            }
        }
    }
}

/// Kubernetes sets `HOLDFAST_SERVICE_HOST`, `HOLDFAST_OPS_PORT_9600_TCP` and the like for services of these names.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    words
        .windows(2)
        .any(|pair| pair[0] == "SERVICE" && matches!(pair[1], "HOST" | "PORT"))
        || words
            .windows(2)
            .any(|pair| pair[0] == "PORT" && pair[1].bytes().all(|byte| byte.is_ascii_digit()))
        || words.last() == Some(&"PORT")
}

struct Entry {
    path: String,
    value: Value,
    span: Range<usize>,
}

/// Flattens tables into dotted paths. A table where a key expects a value ends up as its unknown inner keys.
fn collect(table: &DeTable<'_>, prefix: &str, found: &mut Vec<Entry>) {
    for (name, value) in table {
        let path = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => collect(inner, &path, found),
            // An empty section says nothing, and nothing is wrong with it when it exists.
            DeValue::Table(_) if keys().iter().any(|key| key.section() == path) => {}
            other => found.push(Entry {
                path,
                value: plain(other),
                span: name.span(),
            }),
        }
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Array(items) => Value::List(list(items)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn list(items: &DeArray<'_>) -> Vec<Value> {
    items.iter().map(|item| plain(item.get_ref())).collect()
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.as_bytes()
        .iter()
        .take(span.start)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// `; did you mean X?`, or a pointer to the list when nothing is near.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    // The last segment decides: people know the section and mistype the key, or know the key and forget the section.
    let tail = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let score = |name: &str| {
        strsim::normalized_damerau_levenshtein(wrong, name)
            .max(if tail(wrong) == tail(name) { 0.9 } else { 0.0 })
            .max(strsim::normalized_damerau_levenshtein(&tail(wrong), &tail(name)) * 0.8)
    };
    let best = names.map(|name| (score(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, name)) if score >= NEAR => format!("; did you mean {name}?"),
        _ => "; `holdfast config default` lists all keys".to_owned(),
    }
}

#[cfg(test)]
mod tests;
