//! The default configuration file and the reference page, both written from the table of keys.

use std::fmt::Write as _;

use super::Config;
use super::key::Key;
use super::keys::{SECTIONS, keys};

/// The longest line of a comment in the default file, in characters.
const COMMENT_WIDTH: usize = 100;

/// A file with every key, its meaning and its default, commented out.
pub(crate) fn default_file() -> String {
    let mut out = String::from(
        "# Holdfast configuration. Every key is shown with its default; uncomment what you change.\n\
         # A key can also be set by environment variable (HOLDFAST_<SECTION>_<KEY>) or --set section.key=value;\n\
         # flags win over the environment, which wins over this file. Check it: holdfast config check --config FILE\n",
    );
    let all = keys();
    for (section, about) in SECTIONS {
        let _ = write!(out, "\n# {about}\n[{section}]\n");
        for key in all.iter().filter(|key| key.section() == *section) {
            for line in wrap(key.doc, COMMENT_WIDTH) {
                let _ = writeln!(out, "# {line}");
            }
            match key.show(&Config::default()) {
                Some(value) => {
                    let _ = writeln!(out, "#{} = {value}", key.name());
                }
                None => {
                    let _ = writeln!(out, "#{} = …    ({}; not set by default)", key.name(), key.kind);
                }
            }
        }
    }
    out
}

/// `docs/configuration.md`; the page is written by the tests.
#[cfg(test)]
fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Written by the test `configuration_page_is_up_to_date`; run it with HOLDFAST_REWRITE=1 to rewrite. -->\n\n\
         One TOML file, then environment variables, then `--set section.key=value`; the later wins. Nothing unknown is\n\
         ignored: a wrong key or value is refused with its line and the nearest name. Durations are whole numbers of\n\
         `ms`, `s`, `m`, `h`, `d`; sizes of `B`, `KiB`, `MiB`, `GiB`, `TiB`. In a variable, list items are separated by\n\
         commas and nothing is quoted.\n\n\
         `holdfast config default` prints a file with every key; `holdfast config check --config FILE` checks one without\n\
         starting anything.\n",
    );
    let all = keys();
    for (section, about) in SECTIONS {
        let _ = write!(
            out,
            "\n## `[{section}]`\n\n{about}\n\n| key | kind | default | meaning |\n| --- | --- | --- | --- |\n"
        );
        for key in all.iter().filter(|key| key.section() == *section) {
            let default = key
                .show(&Config::default())
                .map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
            let _ = writeln!(
                out,
                "| `{}`<br>`{}` | {} | {default} | {} |",
                key.name(),
                key.variable(),
                key.kind,
                key.doc.replace('|', "\\|")
            );
        }
    }
    out
}

/// One line per key of `config`, for `config check --print`; secrets are never part of the configuration itself.
pub(crate) fn effective(config: &Config) -> String {
    let mut out = String::new();
    let all: Vec<Key> = keys();
    for (section, _) in SECTIONS {
        let _ = writeln!(out, "[{section}]");
        for key in all.iter().filter(|key| key.section() == *section) {
            if let Some(value) = key.show(config) {
                let _ = writeln!(out, "{} = {value}", key.name());
            }
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines
            .last()
            .is_some_and(|line| line.chars().count() + word.chars().count() >= width);
        match lines.last_mut() {
            Some(line) if !full => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    /// The page in the repository, beside this crate.
    fn page_path() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
    fn configuration_page_is_up_to_date() {
        let wanted = reference();
        if std::env::var("HOLDFAST_REWRITE").is_ok() {
            std::fs::write(page_path(), &wanted).unwrap();
        }
        let found = std::fs::read_to_string(page_path()).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/configuration.md is stale; rewrite it: HOLDFAST_REWRITE=1 cargo test -p holdfast configuration_page"
        );
    }

    #[test]
    fn the_default_file_uncommented_gives_the_defaults() {
        let text: String = default_file()
            .lines()
            .filter(|line| !line.contains(" = …"))
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let name = std::path::Path::new("default.toml");
        let config = load(
            Config::default(),
            &Sources {
                file: Some((name, &text)),
                ..Sources::default()
            },
        )
        .unwrap();
        assert_eq!(effective(&config), effective(&Config::default()));
    }

    #[test]
    fn every_key_lives_in_a_described_section_and_has_a_meaning_and_its_own_variable() {
        let all = keys();
        let mut variables: Vec<_> = all.iter().map(Key::variable).collect();
        for key in &all {
            assert!(
                SECTIONS.iter().any(|(section, _)| *section == key.section()),
                "{}",
                key.path
            );
            assert!(key.doc.ends_with('.'), "{} has no sentence", key.path);
        }
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), all.len());
    }
}
