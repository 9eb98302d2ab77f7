//! One configuration from a file, the environment and flags, the later over the earlier, or every mistake with its place.
//!
//! Invariant: nothing unknown is ignored. A key that the hub does not know is a typing mistake that would otherwise
//! be found in an outage.

use std::ops::Range;
use std::path::Path;

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use crate::{Invalid, Key, Tree, Value};

/// The prefix of the variables that the hub reads.
const PREFIX: &str = "HOLDFAST_";

/// Two names are near when they differ in fewer places than this part of their length.
const NEAR: f64 = 0.62;

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, PartialEq, Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// The sources of a configuration.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The file's name and text.
    pub file: Option<(&'a Path, &'a str)>,
    /// The process environment, all of it.
    pub environment: Vec<(String, String)>,
    /// `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
}

/// A configuration that can work.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// Keys that were set by a name that the next version will refuse, one sentence each.
    pub warnings: Vec<String>,
}

/// Builds a configuration on top of `defaults`.
///
/// # Errors
/// All problems at once, in the order of the sources; within the file in the order of the lines.
pub fn load<T: Tree>(defaults: T, sources: &Sources<'_>) -> Result<Loaded<T>, Problems> {
    let mut loader = Loader {
        config: defaults,
        problems: Vec::new(),
        warnings: Vec::new(),
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
        loader.check();
    }
    if loader.problems.is_empty() {
        Ok(Loaded {
            config: loader.config,
            warnings: loader.warnings,
        })
    } else {
        Err(Problems(loader.problems))
    }
}

struct Loader<T> {
    config: T,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Where each key was last set.
    places: Vec<(String, String)>,
}

/// All keys of `config`, section by section.
pub(crate) fn keys(config: &mut dyn Tree) -> Vec<Key<'_>> {
    let sections = config.sections();
    sections.into_iter().flat_map(|section| section.keys()).collect()
}

/// `HOLDFAST_` and the path in capitals, dots as underscores.
pub(crate) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

impl<T: Tree> Loader<T> {
    fn file(&mut self, name: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match DeTable::parse(text) {
            Err(error) => {
                let line = line_of(text, error.span().unwrap_or(0..0));
                self.problems.push(format!("{name}:{line}: {}", error.message()));
            }
            Ok(table) => {
                let sections: Vec<&str> = keys(&mut self.config).iter().map(|key| key.section).collect();
                let mut found = Vec::new();
                collect(table.get_ref(), "", &sections, &mut found);
                found.sort_by_key(|entry| entry.span.start);
                for entry in found {
                    let place = format!("{name}:{}", line_of(text, entry.span));
                    self.put(&entry.path, &entry.value, place, |path| path.to_owned());
                }
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        let keys = keys(&mut self.config);
        let named = |path: &String| variable(path) == name;
        let path = (keys.iter().flat_map(|key| [Some(key.path()), key.old_path()]))
            .flatten()
            .find(named);
        if let Some(path) = path {
            let value = Value::Bare(value.to_owned());
            return self.put(&path, &value, format!("environment variable {name}"), variable);
        }
        // Only names inside one of our sections can be meant for the configuration.
        let is_within = |section: &str| {
            let tail = rest.strip_prefix(&section.replace('.', "_").to_ascii_uppercase());
            tail.is_some_and(|tail| tail.is_empty() || tail.starts_with('_'))
        };
        if !is_service_link(rest) && keys.iter().any(|key| is_within(key.section)) {
            let hint = nearest(name, keys.iter().map(|key| variable(&key.path())));
            self.problems
                .push(format!("environment variable {name}: no key has this name{hint}"));
        }
    }

    fn assignment(&mut self, assignment: &str) {
        match assignment.split_once('=') {
            Some((path, value)) => {
                let place = format!("--set {assignment}");
                let value = Value::Bare(value.trim().to_owned());
                self.put(path.trim(), &value, place, |path| path.to_owned());
            }
            None => self
                .problems
                .push(format!("--set {assignment}: write it as section.key=value")),
        }
    }

    /// Sets the key with the path or old path `path`; `shown` is how the source writes a path.
    fn put(&mut self, path: &str, value: &Value, place: String, shown: impl Fn(&str) -> String) {
        let mut keys = keys(&mut self.config);
        let is_named = |key: &&mut Key<'_>| key.path() == path || key.old_path().as_deref() == Some(path);
        let Some(key) = keys.iter_mut().find(is_named) else {
            let hint = nearest(path, keys.iter().map(Key::path));
            self.problems.push(format!("{place}: unknown key {path}{hint}"));
            return;
        };
        let now = key.path();
        if now != path {
            let (old, now) = (shown(path), shown(&now));
            self.warnings.push(format!(
                "{place}: {old} is now called {now}; the next version refuses the old name"
            ));
        }
        if let Err(message) = key.setting.read(value) {
            self.problems.push(format!("{place}: {path}: {message}"));
        }
        self.places.push((now, place));
    }

    fn check(&mut self) {
        let mut found = self.config.problems();
        found.extend(
            self.config
                .sections()
                .into_iter()
                .flat_map(|section| section.problems()),
        );
        for Invalid { section, key, reason } in found {
            let key = format!("{section}.{key}");
            let place = self.places.iter().rev().find(|(path, _)| *path == key);
            let place = place.map_or("default value", |(_, place)| place.as_str());
            self.problems.push(format!("{place}: {key}: {reason}"));
        }
    }
}

/// Kubernetes sets `HOLDFAST_SERVICE_HOST`, `HOLDFAST_OPS_PORT_9600_TCP` and the like for services of these names.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_link = |pair: &[&str]| match pair {
        ["SERVICE", next] => matches!(*next, "HOST" | "PORT"),
        ["PORT", next] => next.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    words.windows(2).any(is_link) || words.last() == Some(&"PORT")
}

struct Entry {
    path: String,
    value: Value,
    span: Range<usize>,
}

/// Flattens tables into dotted paths. A table where a key expects a value ends up as its unknown inner keys.
fn collect(table: &DeTable<'_>, prefix: &str, sections: &[&str], found: &mut Vec<Entry>) {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => collect(inner, &format!("{path}."), sections, found),
            // An empty section says nothing, and nothing is wrong with it when it exists.
            DeValue::Table(_) if sections.contains(&path.as_str()) => {}
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
        DeValue::Array(items) => Value::List(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or(Value::Other("a number that cannot be read"), Value::Float),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
}

/// `; did you mean X?`, or a pointer to the list when nothing is near.
fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> String {
    use strsim::normalized_damerau_levenshtein as likeness;
    // The last segment decides: people know the section and mistype the key, or know the key and forget the section.
    let tail = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let score = |name: &str| {
        likeness(wrong, name)
            .max(if tail(wrong) == tail(name) { 0.9 } else { 0.0 })
            .max(likeness(&tail(wrong), &tail(name)) * 0.8)
    };
    let best = names
        .map(|name| (score(&name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, name)) if score >= NEAR => format!("; did you mean {name}?"),
        _ => "; `holdfast config default` lists all keys".to_owned(),
    }
}
