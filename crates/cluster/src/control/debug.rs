//! The debug report of a node, which any other can request: configuration, metrics, last log lines, threads (`holdfast debug bundle`).
//!
//! Why by way of control: an operator reaches one node, and needs the reports of all, also of those that serve no devices.
//! Invariants: a report is bounded by [`MAX_REPORT_BYTES`]; a node that does not answer costs [`TIMEOUT`] and is named.
//! Not here: what is in a report, and that it holds no secret (the process that gives the source).

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;

use super::Control;
use super::error::ControlError;
use crate::error_chain;

/// How long one node may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a report; files that do not fit are cut, the last ones first.
pub const MAX_REPORT_BYTES: usize = 4 << 20;

/// A text of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugFile {
    /// Its name, without folders.
    pub name: String,
    /// Its text, without secrets.
    pub text: String,
}

/// Makes the report of this node.
pub type DebugSource = Arc<dyn Fn() -> Vec<DebugFile> + Send + Sync>;

impl Control {
    /// What makes this node's report from now on; only the first call counts.
    pub fn set_debug_source(&self, source: DebugSource) {
        // There is one process around a node.
        let _ = self.0.debug_source.set(source);
    }

    /// The report of the member `name`.
    ///
    /// # Errors
    /// [`ControlError::NoSuchNode`]; [`ControlError::Refused`] with the reason when the node does not answer.
    pub async fn debug_report(&self, name: &str) -> Result<Vec<DebugFile>, ControlError> {
        let view = self.0.registry.cluster();
        let node = view.nodes.values().find(|node| node.name.eq_ignore_ascii_case(name));
        let node = node.ok_or_else(|| ControlError::NoSuchNode(name.to_owned()))?.id;
        if node == self.0.id {
            return Ok(self.own_report());
        }
        let no_report = |reason: String| ControlError::Refused(format!("'{name}' gives no report: {reason}"));
        match self
            .call_control(node, Request::Debug(proto::DebugRequest {}), TIMEOUT)
            .await
        {
            Ok(Answer::Debug(answer)) => Ok(bounded(answer.files.into_iter().map(|file| DebugFile {
                name: file.name,
                text: file.text,
            }))),
            Ok(Answer::Refusal(refusal)) => Err(no_report(refusal.text)),
            Ok(_) => Err(no_report("its answer belongs to another request".to_owned())),
            Err(error) => Err(no_report(error_chain::text(&error))),
        }
    }

    /// Answers another node.
    pub(super) fn debug_answer(&self) -> proto::DebugAnswer {
        let files = self.own_report().into_iter().map(|file| proto::DebugFile {
            name: file.name,
            text: file.text,
        });
        proto::DebugAnswer { files: files.collect() }
    }

    fn own_report(&self) -> Vec<DebugFile> {
        self.0
            .debug_source
            .get()
            .map_or_else(Vec::new, |source| bounded(source().into_iter()))
    }
}

/// Cuts the report at [`MAX_REPORT_BYTES`].
fn bounded(files: impl Iterator<Item = DebugFile>) -> Vec<DebugFile> {
    let mut left = MAX_REPORT_BYTES;
    files
        .map(|mut file| {
            if file.text.len() > left {
                let end = file.text.floor_char_boundary(left);
                file.text.truncate(end);
                file.text.push_str("\n(cut: the report is too large)\n");
            }
            left = left.saturating_sub(file.text.len());
            file
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_at_its_limit() {
        let file = |name: &str, text: String| DebugFile {
            name: name.to_owned(),
            text,
        };
        let long = "ä".repeat(MAX_REPORT_BYTES / 2 - 3);
        let files = bounded(
            [
                file("a", "small".to_owned()),
                file("b", long),
                file("c", "lost".to_owned()),
            ]
            .into_iter(),
        );
        assert_eq!(files[0].text, "small");
        assert!(files[2].text.contains("cut"));
        let bytes: usize = files.iter().map(|file| file.text.len()).sum();
        assert!(bytes < MAX_REPORT_BYTES + 100, "{bytes}");
    }
}
