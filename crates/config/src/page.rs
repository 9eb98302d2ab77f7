//! The default configuration file and the reference page, both written from the keys.

use std::fmt::Write as _;

use crate::load::variable;
use crate::{Key, Tree};

/// The longest line of a comment in the default file, in characters.
const COMMENT_WIDTH: usize = 100;

/// Writes every section: `head` with its name and sentence, then `line` with each of its keys.
fn write(
    config: &mut dyn Tree,
    out: &mut String,
    head: impl Fn(&mut String, &str, &str),
    line: impl Fn(&mut String, &Key<'_>),
) {
    let mut last = "";
    for section in config.sections() {
        if section.name() != last {
            last = section.name();
            head(out, last, &section.about());
        }
        for key in section.keys() {
            line(out, &key);
        }
    }
}

/// A file with every key, its meaning and its default, commented out.
#[must_use]
pub fn default_file(defaults: &mut dyn Tree) -> String {
    let mut out = String::from(
        "# Holdfast configuration. Every key is shown with its default; uncomment what you change.\n\
         # A key can also be set by environment variable (HOLDFAST_<SECTION>_<KEY>) or --set section.key=value;\n\
         # flags win over the environment, which wins over this file. Check it: holdfast config check --config FILE\n",
    );
    write(
        defaults,
        &mut out,
        |out, section, about| out.push_str(&format!("\n# {about}\n[{section}]\n")),
        |out, key| {
            for line in wrap(&key.meaning(), COMMENT_WIDTH) {
                let _ = writeln!(out, "# {line}");
            }
            let _ = match key.setting.write() {
                Some(value) => writeln!(out, "#{} = {value}", key.name),
                None => writeln!(out, "#{} = …    ({}; not set by default)", key.name, key.setting.kind()),
            };
        },
    );
    out
}

/// `docs/configuration.md`; a test of the binary writes the page.
#[must_use]
pub fn reference(defaults: &mut dyn Tree) -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Written by the test `configuration_page_is_up_to_date`; run it with HOLDFAST_REWRITE=1 to rewrite. -->\n\n\
         One TOML file, then environment variables, then `--set section.key=value`; the later wins. Nothing unknown is\n\
         ignored: a wrong key or value is refused with its line and the nearest name. Durations are whole numbers of\n\
         `ms`, `s`, `m`, `h`, `d`; sizes of `B`, `KiB`, `MiB`, `GiB`, `TiB`. In a variable, list items are separated by\n\
         commas and nothing is quoted. A key's former name is accepted for one version, with a warning.\n\n\
         `holdfast config default` prints a file with every key; `holdfast config check --config FILE` checks one without\n\
         starting anything.\n",
    );
    write(
        defaults,
        &mut out,
        |out, section, about| {
            out.push_str(&format!(
                "\n## `[{section}]`\n\n{about}\n\n| key | kind | default | meaning |\n| --- | --- | --- | --- |\n"
            ));
        },
        |out, key| {
            let default = key.setting.write();
            let default = default.map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
            let _ = writeln!(
                out,
                "| `{}`<br>`{}` | {} | {default} | {} |",
                key.name,
                variable(&key.path()),
                key.setting.kind(),
                key.meaning().replace('|', "\\|")
            );
        },
    );
    out
}

/// One line per key that has a value, for `config check --print`; secrets are never part of the configuration itself.
#[must_use]
pub fn effective(config: &mut dyn Tree) -> String {
    let mut out = String::new();
    write(
        config,
        &mut out,
        |out, section, _| out.push_str(&format!("[{section}]\n")),
        |out, key| {
            if let Some(value) = key.setting.write() {
                let _ = writeln!(out, "{} = {value}", key.name);
            }
        },
    );
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
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
