//! How a crate declares its metrics, beside their use.

/// A metric with its meaning.
#[derive(Debug)]
pub struct Metric {
    /// Its public name; the unit is in it.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// The names of its labels, whose values come from small sets.
    pub labels: &'static [&'static str],
    /// The lines of its meaning.
    pub doc: &'static [&'static str],
}

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// A value now.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Metric {
    /// Its meaning, in one line.
    #[must_use]
    pub fn meaning(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// Declares metrics: `METRICS` for the page and the recorder, and for each metric a function that makes its handle.
///
/// ```ignore
/// holdfast_model::metrics! {
///     /// Frames of calls and answers.
///     counter frames(direction) = "holdfast_peer_frames_total";
/// }
/// frames("sent").increment(1);
/// ```
#[macro_export]
macro_rules! metrics {
    (@kind counter) => { $crate::MetricKind::Counter };
    (@kind gauge) => { $crate::MetricKind::Gauge };
    (@kind histogram) => { $crate::MetricKind::Histogram };
    (@handle counter) => { ::metrics::Counter };
    (@handle gauge) => { ::metrics::Gauge };
    (@handle histogram) => { ::metrics::Histogram };
    ($($(#[doc = $doc:literal])+ $kind:ident $handle:ident($($label:ident),*) = $name:literal;)+) => {
        /// The metrics that are declared here.
        pub const METRICS: &[$crate::Metric] = &[$($crate::Metric {
            name: $name,
            kind: $crate::metrics!(@kind $kind),
            labels: &[$(stringify!($label)),*],
            doc: &[$($doc),+],
        }),+];

        $($(#[doc = $doc])+
        pub(crate) fn $handle(
            $($label: impl Into<::metrics::SharedString>),*
        ) -> $crate::metrics!(@handle $kind) {
            ::metrics::$kind!($name $(, stringify!($label) => $label)*)
        })+
    };
}
