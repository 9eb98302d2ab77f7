//! The calls that make a hub's settings those of a file. Pure.
//!
//! Order: values, then groups, policies, CAs and queries are created and changed in the order of the file, then deleted. So a hub that
//! is at a limit says so before anything is lost.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::document::{Ca, HubDocument, Policy, SavedQuery, Settings};
use crate::device::encode;
use crate::exit_code::Failure;
use crate::{ca, consumer_group, policy, saved_query, settings};

/// The consumer group that a hub always has.
const DEFAULT_GROUP: &str = "$Default";

/// What happens to what the file does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pruning {
    Keep,
    Delete,
}

/// One call, and what it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    what: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// Only if it does not exist.
    pub(super) creates: bool,
    /// Only if it exists.
    pub(super) replaces: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Change {
    fn create(kind: &str, path: &str, name: &str, body: Value) -> Self {
        Self {
            what: format!("create {kind} {name}"),
            method: Method::PUT,
            path: at(path, name),
            body: Some(body),
            creates: true,
            replaces: false,
        }
    }

    fn update(kind: &str, path: &str, name: &str, difference: &str, body: Value) -> Self {
        Self {
            what: format!("update {kind} {name}: {difference}"),
            creates: false,
            replaces: true,
            ..Self::create(kind, path, name, body)
        }
    }

    fn delete(kind: &str, path: &str, name: &str) -> Self {
        Self {
            what: format!("delete {kind} {name}"),
            method: Method::DELETE,
            path: at(path, name),
            body: None,
            creates: false,
            replaces: false,
        }
    }
}

/// The changes that make `current` what `wanted` says.
pub(super) fn changes(current: &HubDocument, wanted: &HubDocument, pruning: Pruning) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    let mut deletions = Vec::new();
    if let Some(wanted) = &wanted.settings {
        changes.extend(values(current.settings.as_ref(), wanted)?);
    }
    let groups = Section::of(
        "consumer group",
        consumer_group::PATH,
        &current.consumer_groups,
        &wanted.consumer_groups,
    );
    groups.compare(&mut changes, &mut deletions, &GROUP)?;
    let policies = Section::of("policy", policy::PATH, &current.policies, &wanted.policies);
    policies.compare(&mut changes, &mut deletions, &POLICY)?;
    let cas = Section::of("CA", ca::PATH, &current.cas, &wanted.cas);
    cas.compare(&mut changes, &mut deletions, &CA)?;
    let queries = Section::of(
        "saved query",
        saved_query::PATH,
        &current.saved_queries,
        &wanted.saved_queries,
    );
    queries.compare(&mut changes, &mut deletions, &SAVED_QUERY)?;
    if pruning == Pruning::Delete {
        changes.append(&mut deletions);
    }
    Ok(changes)
}

fn values(current: Option<&Settings>, wanted: &Settings) -> Result<Option<Change>, Failure> {
    let none = Settings::default();
    let current = current.unwrap_or(&none);
    let retention = wanted
        .retention()?
        .filter(|wanted| current.retention().ok().flatten() != Some(*wanted));
    let size = wanted
        .retention_size()?
        .filter(|wanted| current.retention_size().ok().flatten() != Some(*wanted));
    let max = wanted
        .max_identities
        .filter(|wanted| current.max_identities != Some(*wanted));
    let differences = [
        retention.map(|retention| format!("retention {retention}")),
        size.map(|size| format!("retention_size {size}")),
        max.map(|max| format!("max_identities {max}")),
    ];
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    if differences.is_empty() {
        return Ok(None);
    }
    Ok(Some(Change {
        what: format!("update settings: {}", differences.join(", ")),
        method: Method::PATCH,
        path: settings::PATH.to_owned(),
        body: Some(settings::body(retention, size, max)),
        creates: false,
        replaces: false,
    }))
}

/// How entries of a kind are compared and written.
struct Kind<T> {
    name: fn(&T) -> &str,
    body: fn(&T) -> Result<Value, Failure>,
    /// How they differ; `None`: not at all.
    difference: fn(&T, &T) -> Result<Option<String>, Failure>,
    /// Never deleted.
    is_fixed: fn(&T) -> bool,
}

const GROUP: Kind<String> = Kind {
    name: |group| group,
    body: |group| Ok(json!({"name": group})),
    difference: |_, _| Ok(None),
    is_fixed: |group| group.eq_ignore_ascii_case(DEFAULT_GROUP),
};

const POLICY: Kind<Policy> = Kind {
    name: |policy| &policy.name,
    body: |policy| Ok(json!({"rights": policy.rights.join(", ")})),
    difference: |current, wanted| {
        // Writing includes reading.
        let rights = |policy: &Policy| holdfast_auth::Rights::parse(&policy.rights.join(","));
        let wanted_rights =
            rights(wanted).map_err(|error| Failure::usage(format!("policy {}: {error}", wanted.name)))?;
        Ok((rights(current).ok() != Some(wanted_rights)).then(|| format!("rights {wanted_rights}")))
    },
    is_fixed: |_| false,
};

const CA: Kind<Ca> = Kind {
    name: |ca| &ca.name,
    body: |ca| Ok(json!({"certificate": STANDARD.encode(&ca.certificate), "isVerified": ca.verified})),
    difference: |current, wanted| {
        if der(current)? != der(wanted)? {
            return Ok(Some("another certificate".to_owned()));
        }
        // A CA that was verified by its proof stays so, whatever the file says.
        Ok((wanted.verified && !current.verified).then(|| "verified".to_owned()))
    },
    is_fixed: |_| false,
};

const SAVED_QUERY: Kind<SavedQuery> = Kind {
    name: |query| &query.name,
    body: |query| Ok(json!({"query": query.query, "description": query.description})),
    difference: |current, wanted| {
        let is_same = (&current.query, &current.description) == (&wanted.query, &wanted.description);
        Ok((!is_same).then(|| "another text".to_owned()))
    },
    is_fixed: |_| false,
};

fn der(ca: &Ca) -> Result<Vec<u8>, Failure> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    let found = CertificateDer::from_pem_slice(ca.certificate.as_bytes());
    let found = found.map_err(|_| Failure::usage(format!("CA {}: its certificate is not PEM", ca.name)))?;
    Ok(found.to_vec())
}

/// One section of both documents.
struct Section<'a, T> {
    kind: &'static str,
    path: &'static str,
    current: &'a [T],
    /// `None`: not touched.
    wanted: Option<&'a [T]>,
}

impl<'a, T> Section<'a, T> {
    fn of(kind: &'static str, path: &'static str, current: &'a Option<Vec<T>>, wanted: &'a Option<Vec<T>>) -> Self {
        Self {
            kind,
            path,
            current: current.as_deref().unwrap_or_default(),
            wanted: wanted.as_deref(),
        }
    }

    fn compare(&self, changes: &mut Vec<Change>, deletions: &mut Vec<Change>, kind: &Kind<T>) -> Result<(), Failure> {
        let Some(wanted) = self.wanted else { return Ok(()) };
        let mut names = BTreeSet::new();
        for entry in wanted {
            let name = (kind.name)(entry);
            if !names.insert(name.to_ascii_lowercase()) {
                return Err(Failure::usage(format!("the file has {} {name} twice", self.kind)));
            }
            let body = (kind.body)(entry)?;
            let existing = self
                .current
                .iter()
                .find(|found| (kind.name)(found).eq_ignore_ascii_case(name));
            match existing
                .map(|existing| (kind.difference)(existing, entry))
                .transpose()?
            {
                None => {
                    // Checked as a change would be.
                    (kind.difference)(entry, entry)?;
                    changes.push(Change::create(self.kind, self.path, name, body));
                }
                Some(Some(difference)) => changes.push(Change::update(self.kind, self.path, name, &difference, body)),
                Some(None) => {}
            }
        }
        for entry in self.current.iter().filter(|entry| !(kind.is_fixed)(entry)) {
            let name = (kind.name)(entry);
            if !names.contains(&name.to_ascii_lowercase()) {
                deletions.push(Change::delete(self.kind, self.path, name));
            }
        }
        Ok(())
    }
}

fn at(path: &str, name: &str) -> String {
    format!("{path}/{}", encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = r#"
        consumer_groups = ["$Default", "analytics"]
        [settings]
        retention = "1d"
        retention_size = "0B"
        max_identities = 1000
        [[policies]]
        name = "reader"
        rights = ["RegistryRead"]
        [[saved_queries]]
        name = "all"
        query = "SELECT * FROM devices"
    "#;

    fn document(text: &str) -> HubDocument {
        HubDocument::parse(text).unwrap()
    }

    /// What changes, in words.
    fn changed(wanted: &str, pruning: Pruning) -> Vec<String> {
        let changes = changes(&document(HUB), &document(wanted), pruning).unwrap();
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_hub_that_is_as_the_file_says_is_not_changed() {
        assert_eq!(changed(HUB, Pruning::Delete), [""; 0]);
        assert_eq!(document(&document(HUB).to_toml().unwrap()), document(HUB));
        // Names in another case, the same duration and rights in other words.
        let same = r#"
            consumer_groups = ["ANALYTICS"]
            settings = { retention = "24h" }
            policies = [{ name = "Reader", rights = ["registryread"] }]
        "#;
        assert_eq!(changed(same, Pruning::Delete), [""; 0]);
    }

    #[test]
    fn what_differs_is_changed_and_only_pruning_deletes() {
        let wanted = r#"
            consumer_groups = ["new"]
            saved_queries = [{ name = "all", query = "SELECT deviceId FROM devices" }]
            [settings]
            retention = "2d"
            retention_size = "1GiB"
            [[policies]]
            name = "reader"
            rights = ["RegistryRead", "ServiceConnect"]
            [[policies]]
            name = "writer"
            rights = ["RegistryWrite"]
        "#;
        let kept = [
            "update settings: retention 2d, retention_size 1GiB",
            "create consumer group new",
            "update policy reader: rights RegistryRead, ServiceConnect",
            "create policy writer",
            "update saved query all: another text",
        ];
        assert_eq!(changed(wanted, Pruning::Keep), kept);
        let pruned = [&kept[..], &["delete consumer group analytics"]].concat();
        assert_eq!(changed(wanted, Pruning::Delete), pruned);
        assert_eq!(changed("", Pruning::Delete), [""; 0], "no section, no change");
    }

    #[test]
    fn an_invalid_file_is_refused_before_the_first_change() {
        for (wrong, word) in [
            ("settings = { retention = \"soon\" }", "settings.retention"),
            ("colour = 1", "colour"),
            ("policies = [{ name = \"a\" }]", "rights"),
            ("consumer_groups = [\"a\", \"A\"]", "twice"),
            ("policies = [{ name = \"a\", rights = [\"Fly\"] }]", "Fly"),
            ("cas = [{ name = \"a\", certificate = \"text\" }]", "PEM"),
        ] {
            let outcome = HubDocument::parse(wrong).and_then(|wanted| changes(&document(HUB), &wanted, Pruning::Keep));
            let message = outcome.unwrap_err().message;
            assert!(message.contains(word), "{wrong}: {message}");
        }
    }
}
