//! `holdfast export` and `holdfast apply`: the hub's settings as a file that can be reviewed, kept in version control and applied again.
//!
//! Invariants: a file contains no secret: keys of policies stay in the hub, and a policy that `apply` creates gets new ones; a section
//! that the file does not have is not touched; nothing is deleted without `--prune`; applying a file a second time changes nothing.
//! Not here: devices (`holdfast device`), what each node is configured with (`holdfast config`).

mod document;
mod hub_state;
mod plan;

use std::path::{Path, PathBuf};

use clap::Args;
use http::header;

use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, block_on, call};
use crate::hub::{Hub, LoginArgs};
use crate::output;
use document::HubDocument;
use plan::{Change, Pruning};

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Print the hub's settings, consumer groups, policies, CAs and saved queries as TOML, for `holdfast apply`
#[derive(Debug, Args)]
pub struct Export {
    /// Write them to a file instead
    #[arg(short = 'f', long, visible_alias = "out", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    login: LoginArgs,
}

/// Make the hub's settings those of a file that `holdfast export` has written; prints what changes
#[derive(Debug, Args)]
pub struct Apply {
    /// The file (TOML); `-` is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Print the changes without making them
    #[arg(long)]
    dry_run: bool,
    /// Delete what the file's sections do not name
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn export(args: &Export) -> Result<(), Failure> {
    let hub = args.login.hub()?;
    let text = block_on(hub_state::read(&hub))?.to_toml()?;
    match &args.file {
        Some(file) => {
            std::fs::write(file, text).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
        }
        None => crate::print(&text),
    }
}

pub(crate) fn apply(args: &Apply) -> Result<(), Failure> {
    let wanted = HubDocument::parse(&read(&args.file)?)?;
    let hub = args.login.hub()?;
    let pruning = match args.prune {
        true => Pruning::Delete,
        false => Pruning::Keep,
    };
    block_on(async {
        let current = hub_state::read(&hub).await?;
        let changes = plan::changes(&current, &wanted, pruning)?;
        make(&hub, &changes, args.dry_run).await
    })
}

/// Makes the changes one after the other; the first failure ends it, and says what has been done.
async fn make(hub: &Hub, changes: &[Change], dry_run: bool) -> Result<(), Failure> {
    if changes.is_empty() {
        return crate::print("the hub has these settings already\n");
    }
    let verb = if dry_run { "would " } else { "" };
    for (done, change) in changes.iter().enumerate() {
        if !dry_run {
            let sent = call(hub, request(change)).await;
            sent.map_err(|failure| {
                let text = format!(
                    "{change}: {}; {done} of {} changes were made",
                    failure.message,
                    changes.len()
                );
                Failure {
                    message: text,
                    ..failure
                }
            })?;
        }
        crate::print(&format!("{verb}{}\n", output::escape(&change.to_string())))?;
    }
    Ok(())
}

fn request(change: &Change) -> Call<'static> {
    let mut request = Call::new(change.method.clone(), change.path.clone());
    request.body.clone_from(&change.body);
    if change.creates {
        request.headers.push((header::IF_NONE_MATCH, "*".to_owned()));
    }
    request.if_match = change.replaces.then_some("*");
    request
}

fn read(file: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let input: Box<dyn std::io::Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    input
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let text = format!("{} is longer than {MAX_FILE_BYTES} bytes", file.display());
        return Err(Failure::new(Outcome::Usage, text));
    }
    Ok(text)
}
