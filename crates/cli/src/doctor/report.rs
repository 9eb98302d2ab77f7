//! The findings of a run: shown one by one as they come, or as one JSON document, and summed up in an exit code.
//!
//! Invariant: text of the server, of a certificate or of the environment leaves escaped.

use serde_json::{Value, json};

use crate::exit_code::{Failure, Outcome};
use crate::output::{self, Format, escape};

/// The steps, in the order of the run; each depends on those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Proxy,
    Name,
    Ports,
    Tls,
    Clock,
    Certificate,
    Mqtt,
    MqttWs,
    Https,
    Amqp,
    Credential,
}

impl Step {
    /// Its word in the report.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Name => "name",
            Self::Ports => "ports",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::Certificate => "certificate",
            Self::Mqtt => "mqtt",
            Self::MqttWs => "mqtt-ws",
            Self::Https => "https",
            Self::Amqp => "amqp",
            Self::Credential => "credential",
        }
    }

    /// The exit code of a run that failed here first.
    const fn outcome(self) -> Outcome {
        match self {
            Self::Credential => Outcome::Unauthorized,
            Self::Clock => Outcome::Failed,
            _ => Outcome::Unreachable,
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// It passed, with something that will hinder some devices or soon all.
    Warning,
    Failed,
    /// Not tried, because an earlier step has failed or nothing was given to try.
    Skipped,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The result of one step.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) step: Step,
    pub(super) verdict: Verdict,
    /// One sentence.
    pub(super) summary: String,
    /// Measured values, one line each.
    pub(super) details: Vec<String>,
    /// The same for programs.
    pub(super) facts: Value,
    /// The remedy.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn new(step: Step, verdict: Verdict, summary: impl Into<String>) -> Self {
        Self {
            step,
            verdict,
            summary: summary.into(),
            details: Vec::new(),
            facts: Value::Null,
            advice: None,
        }
    }

    pub(super) fn passed(step: Step, summary: impl Into<String>) -> Self {
        Self::new(step, Verdict::Passed, summary)
    }

    pub(super) fn warning(step: Step, summary: impl Into<String>) -> Self {
        Self::new(step, Verdict::Warning, summary)
    }

    pub(super) fn failed(step: Step, summary: impl Into<String>) -> Self {
        Self::new(step, Verdict::Failed, summary)
    }

    pub(super) fn skipped(step: Step, summary: impl Into<String>) -> Self {
        Self::new(step, Verdict::Skipped, summary)
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    pub(super) fn facts(mut self, facts: Value) -> Self {
        self.facts = facts;
        self
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{:<8} {:<12} {}\n",
            match self.verdict {
                Verdict::Failed => "FAILED",
                other => other.as_str(),
            },
            self.step.as_str(),
            escape(&self.summary)
        );
        for line in &self.details {
            text.push_str(&format!("{:22}{}\n", "", escape(line)));
        }
        if let Some(advice) = &self.advice {
            text.push_str(&format!("{:22}→ {}\n", "", escape(advice)));
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "step": self.step.as_str(),
            "verdict": self.verdict.as_str(),
            "summary": self.summary,
            "details": self.details,
            "facts": self.facts,
            "advice": self.advice,
        })
    }
}

/// Collects the findings.
pub(super) struct Report {
    host: String,
    is_json: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(host: &str, is_json: bool) -> Self {
        Self {
            host: host.to_owned(),
            is_json,
            findings: Vec::new(),
        }
    }

    /// Says on standard error what is being tried, so that a step that takes long does not look like one that hangs.
    pub(super) fn progress(&self, step: Step, text: &str) {
        eprintln!("… {}: {}", step.as_str(), escape(text));
    }

    pub(super) fn add(&mut self, finding: Finding) -> Result<(), Failure> {
        if !self.is_json {
            crate::print(&finding.text())?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Ends the run: `Ok` only when no step failed.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let failed: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Failed)
            .collect();
        if self.is_json {
            let report = json!({
                "host": self.host,
                "passed": failed.is_empty(),
                "failedSteps": failed.iter().map(|finding| finding.step.as_str()).collect::<Vec<_>>(),
                "steps": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            });
            output::show(&report, Format::Json, &[])?;
        }
        let Some(first) = failed.first() else {
            return Ok(());
        };
        let names: Vec<&str> = failed.iter().map(|finding| finding.step.as_str()).collect();
        let message = format!(
            "failed: {}. First: {}: {}",
            names.join(", "),
            first.step.as_str(),
            escape(&first.summary)
        );
        let failure = Failure::new(first.step.outcome(), message);
        Err(match &first.advice {
            Some(advice) => failure.advise(escape(advice)),
            None => failure,
        })
    }
}
