//! `holdfast debug bundle`: what a stranger needs to know about a hub that misbehaves, in one file.
//!
//! Invariants: no secret is in it, since the hub leaves them out; a node that does not answer is named in it and stops nothing; its size
//! and its time are bounded by the number of nodes.
//! Not here: what a node says about itself (the `holdfast` crate), the archive's format ([`archive`]).

mod archive;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use http::Method;
use serde_json::Value;
use time::OffsetDateTime;

use crate::cluster;
use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::{Hub, LoginArgs};
use crate::output::plain;

use archive::Archive;

/// Nodes that are asked at once.
const AT_ONCE: usize = 8;
/// The most bytes of texts in a bundle.
const MAX_BYTES: usize = 256 << 20;
/// How long one node may take, by way of the one that is asked.
const NODE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub enum Command {
    Bundle(Bundle),
}

/// Collect configuration without secrets, status, metrics, last log lines, versions and threads of all nodes into one .tar.gz
#[derive(Debug, Args)]
pub struct Bundle {
    /// The file to write; default: holdfast-debug-TIME.tar.gz in this directory
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Bundle(args) = command;
    let now = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let date = now.date();
    let name = format!(
        "holdfast-debug-{}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let hub = args.login.hub()?;
    let (archive, silent) = block_on(collect(&hub, &name, now))?;
    write(&path, &archive)?;
    for node in &silent {
        eprintln!("warning: {node}");
    }
    let bytes = archive.len();
    crate::print(&format!(
        "{} ({bytes} bytes). It holds no keys; look through it before you pass it on: it names devices that were in the log.\n",
        path.display()
    ))
}

/// Asks all nodes. Gives the archive, and a sentence about each node that is not in it.
async fn collect(hub: &Hub, name: &str, now: OffsetDateTime) -> Result<(Vec<u8>, Vec<String>), Failure> {
    let status = call(hub, Call::new(Method::GET, cluster::PATH.to_owned())).await?;
    let nodes = status
        .get("nodes")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let names: Vec<String> = nodes.iter().filter_map(|node| Some(plain(node.get("name")?))).collect();
    let reports = futures_util::stream::iter(names.clone()).map(|node| async move {
        let path = format!("/holdfast/v1/nodes/{}/debug", encode(&node));
        let report = tokio::time::timeout(NODE_TIMEOUT, call(hub, Call::new(Method::GET, path))).await;
        let report = match report {
            Ok(answer) => answer.map_err(|failure| failure.message),
            Err(_) => Err(format!("no answer within {} s", NODE_TIMEOUT.as_secs())),
        };
        (node, report)
    });
    let mut reports: Vec<_> = reports.buffer_unordered(AT_ONCE).collect().await;
    reports.sort_by(|(one, _), (other, _)| one.cmp(other));

    let mut archive = Archive::new(now.unix_timestamp());
    let mut silent = Vec::new();
    let mut left = MAX_BYTES;
    let status = serde_json::to_string_pretty(&status).unwrap_or_default();
    for (node, report) in &reports {
        let folder = format!("{name}/nodes/{}", file_name(node));
        let files = match report {
            Ok(report) => report
                .get("files")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            Err(reason) => {
                silent.push(format!("{node} is not in it: {reason}"));
                archive.add(&format!("{folder}/no-answer.txt"), reason.as_bytes());
                continue;
            }
        };
        for file in files {
            let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (called, content) = (file_name(&text("name")), text("text"));
            if content.len() > left {
                silent.push(format!("{node}: {called} is not in it: the bundle is too large"));
                continue;
            }
            left -= content.len();
            archive.add(&format!("{folder}/{called}"), content.as_bytes());
        }
    }
    archive.add(&format!("{name}/status.json"), status.as_bytes());
    archive.add(
        &format!("{name}/README.txt"),
        readme(hub, &names, &silent, now).as_bytes(),
    );
    let bytes = archive.finish().map_err(anyhow::Error::from)?;
    Ok((bytes, silent))
}

fn readme(hub: &Hub, names: &[String], silent: &[String], now: OffsetDateTime) -> String {
    let silent = match silent {
        [] => "All nodes have answered.\n".to_owned(),
        silent => silent.iter().map(|line| format!("! {line}\n")).collect(),
    };
    format!(
        "A debug bundle of the Holdfast hub {}, made at {now} by version {}.\n\
         Nodes: {}.\n{silent}\n\
         status.json               what `holdfast cluster status --json` shows\n\
         nodes/NAME/versions.json  versions of program and system, limits, memory, up time\n\
         nodes/NAME/config.toml    the settings in force, without secrets\n\
         nodes/NAME/log.txt        the last lines of the log (at most 256 KiB)\n\
         nodes/NAME/metrics.txt    all metrics at that moment\n\
         nodes/NAME/threads.txt    threads with their state and CPU time\n\n\
         Keys, tokens, message bodies and twins are not in it. Log lines may name devices and addresses.\n",
        hub.host,
        env!("CARGO_PKG_VERSION"),
        names.join(", ")
    )
}

/// A name that is one part of a path.
fn file_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-._".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(100)
        .collect();
    match name.trim_matches('.') {
        "" => "_".to_owned(),
        _ => name,
    }
}

/// Writes a new file that its owner alone reads.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: std::io::Error| Failure::usage(format!("cannot write {}: {error}", path.display()));
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_calls_its_files_is_one_part_of_a_path() {
        for (name, expected) in [
            ("log.txt", "log.txt"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("..", "_"),
            ("", "_"),
            ("a b\n", "a_b_"),
        ] {
            assert_eq!(file_name(name), expected);
        }
    }
}
