//! The allowed dependencies: the crates' manifests against the table in docs/architecture.md.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The words in backticks of a table cell.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = page
        .split_once("### Allowed dependencies")
        .unwrap()
        .1
        .split_once("\n## ")
        .unwrap()
        .0;
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|');
        let (crates, uses) = (words(cells.next().unwrap()), cells.next().unwrap());
        for name in crates {
            rows.insert(name, words(uses));
        }
    }
    // "everything but": the rest of the crates.
    let all: BTreeSet<String> = rows.keys().cloned().collect();
    let excluded = rows.remove("holdfast").unwrap();
    rows.insert("holdfast".to_owned(), &all - &excluded);
    rows
}

/// The dependencies of a crate, by the folder names of ours; tests may use more, and do not count.
fn used(folder: &Path) -> BTreeSet<String> {
    let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    dependencies
        .into_iter()
        .flat_map(|table| table.keys())
        .filter_map(|name| name.strip_prefix("holdfast-"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_crate_uses_only_what_the_table_allows() {
    let allowed = allowed();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("Cargo.toml").exists() {
            continue;
        }
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let row = allowed
            .get(&name)
            .unwrap_or_else(|| panic!("crate {name} has no row in docs/architecture.md"));
        let surplus = &used(&folder) - row;
        assert!(
            surplus.is_empty(),
            "{name} may not use {surplus:?} (docs/architecture.md, \"Allowed dependencies\")"
        );
        seen.insert(name);
    }
    assert_eq!(seen, allowed.into_keys().collect(), "rows of crates that do not exist");
}

/// The Rust files below `folder`.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether the code of a crate, comments left out, names the crate `dependency`.
fn names(folder: &Path, dependency: &str) -> bool {
    let path = format!("holdfast_{}", dependency.replace('-', "_"));
    let mut files = Vec::new();
    sources(&folder.join("src"), &mut files);
    files.iter().any(|file| {
        let text = std::fs::read_to_string(file).unwrap();
        let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.any(|line| line.contains(&path))
    })
}

#[test]
fn every_crate_names_the_crates_that_its_manifest_lists() {
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("Cargo.toml").exists() {
            continue;
        }
        let unused: Vec<String> = used(&folder)
            .into_iter()
            .filter(|dependency| !names(&folder, dependency))
            .collect();
        assert!(
            unused.is_empty(),
            "{} lists {unused:?} in its manifest and does not use them: take them out there, and in the table of \
             docs/architecture.md",
            folder.file_name().unwrap().to_str().unwrap()
        );
    }
}
