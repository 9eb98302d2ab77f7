//! Section `[tracing]` of the configuration.

use std::path::PathBuf;

use holdfast_model::{HumanDuration, Ratio};
use http::Uri;

holdfast_config::section! {
    /// OpenTelemetry traces by OTLP (runbook.md, "Traces"). Without `endpoint` there are none.
    pub struct TracingConfig = "tracing" {
        /// Where a collector takes OTLP over HTTP with protobuf, such as `http://localhost:4318`; `/v1/traces` is added to a URL without a path.
        pub endpoint: String = String::new();
        /// How many of the traces that begin in the hub are recorded, from 0 to 1. A back end's `traceparent` decides for its own requests.
        pub sample_ratio: Ratio = Ratio::percent(1);
        /// A file of headers for the collector, a `Name: value` a line, such as its token. Read before each export. Needs https, or a
        /// collector on this machine.
        pub headers_file: Option<PathBuf> = None;
        /// The CA that has issued the collector's certificate, PEM. Default: the system's list.
        pub ca_file: Option<PathBuf> = None;
        /// `service.name` of all nodes; each node is an instance of it by its name.
        pub service_name: String = "holdfast".to_owned();
        /// Further attributes of the resource, as `key=value`, such as `deployment.environment.name=production`.
        pub resource_attributes: Vec<String> = Vec::new();
        /// Spans that may wait for the collector; further ones are dropped and counted.
        pub queue: usize = 8192, in 64..=1_000_000 => "must be between 64 and 1000000";
        /// How long spans are gathered for one export.
        pub interval: HumanDuration = HumanDuration::secs(2),
            in HumanDuration::millis(50)..=HumanDuration::secs(60) => "must be 50 ms to 1 min";
        /// How long the collector may take to answer.
        pub timeout: HumanDuration = HumanDuration::secs(10),
            in HumanDuration::millis(100)..=HumanDuration::secs(60) => "must be 100 ms to 1 min";
    }
    check |tracing| {
        tracing.endpoint.is_empty() || tracing.url().is_some() => endpoint, "must be a URL with http:// or https:// and without query";
        tracing.headers_file.is_none() || tracing.is_private() => headers_file, "needs an endpoint with https://, or one on this machine: headers are secrets";
        !tracing.service_name.is_empty() => service_name, "must not be empty";
        tracing.resource_attributes.iter().all(|entry| pair(entry).is_some()) => resource_attributes, "must be key=value";
    }
}

/// The key and the value of an entry. Values may have `=`.
fn pair(entry: &str) -> Option<(&str, &str)> {
    entry.split_once('=').filter(|(key, _)| !key.is_empty())
}

impl TracingConfig {
    /// Whether spans are exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.endpoint.is_empty()
    }

    /// The URL that spans are posted to; `None` when there is none.
    pub(crate) fn url(&self) -> Option<Uri> {
        let url: Uri = self.endpoint.parse().ok()?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        if !is_http || url.host().is_none_or(str::is_empty) || url.query().is_some() {
            return None;
        }
        if url.path() != "/" && !url.path().is_empty() {
            return Some(url);
        }
        let base = self.endpoint.trim_end_matches('/');
        format!("{base}/v1/traces").parse().ok()
    }

    /// Whether what is sent stays between this node and the collector.
    fn is_private(&self) -> bool {
        let Some(url) = self.url() else { return true };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        url.scheme_str() == Some("https") || is_loopback
    }

    /// The further attributes.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.resource_attributes.iter().filter_map(|entry| pair(entry))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    fn fault(change: impl FnOnce(&mut TracingConfig)) -> Option<&'static str> {
        let mut config = TracingConfig {
            endpoint: "https://collector.example".to_owned(),
            headers_file: Some("headers".into()),
            ..TracingConfig::default()
        };
        change(&mut config);
        config.validate().err().map(|invalid| invalid.key)
    }

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(TracingConfig::default().validate(), Ok(()));
        assert_eq!(fault(|_| {}), None);
        for (change, key) in [
            (
                (|config| config.endpoint = "collector:4318".to_owned()) as fn(&mut TracingConfig),
                "endpoint",
            ),
            (
                |config| config.endpoint = "grpc://collector:4317".to_owned(),
                "endpoint",
            ),
            (
                |config| config.endpoint = "https://collector/?key=x".to_owned(),
                "endpoint",
            ),
            (
                |config| config.endpoint = "http://collector.example".to_owned(),
                "headers_file",
            ),
            (|config| config.service_name = String::new(), "service_name"),
            (
                |config| config.resource_attributes = vec!["=x".to_owned()],
                "resource_attributes",
            ),
            (
                |config| config.resource_attributes = vec!["x".to_owned()],
                "resource_attributes",
            ),
        ] {
            assert_eq!(fault(change), Some(key));
        }
        assert_eq!(fault(|config| config.endpoint = "http://[::1]:4318".to_owned()), None);
        assert_eq!(
            fault(|config| config.endpoint = "http://localhost:4318/".to_owned()),
            None
        );
    }

    #[test]
    fn a_url_without_a_path_gets_the_standard_one() {
        let url = |endpoint: &str| {
            let config = TracingConfig {
                endpoint: endpoint.to_owned(),
                ..TracingConfig::default()
            };
            config.url().map(|url| url.to_string())
        };
        assert_eq!(url("http://c:4318").as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(url("https://c/").as_deref(), Some("https://c/v1/traces"));
        assert_eq!(
            url("https://c/otlp/v1/traces").as_deref(),
            Some("https://c/otlp/v1/traces")
        );
    }
}
