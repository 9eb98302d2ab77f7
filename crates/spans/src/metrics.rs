//! Metrics of the export of spans (docs/metrics.md).

holdfast_model::metrics! {
    /// Spans that the collector has taken.
    counter exported() = "holdfast_spans_exported_total";
    /// Spans that were not exported: queue-full: more than `tracing.queue` waited; unreachable: the collector took none for too long; refused:
    /// it refused them; stopping: the node stopped first.
    counter dropped(reason) = "holdfast_spans_dropped_total";
    /// Exports of spans: done, or failed, after which they are repeated or dropped.
    counter exports(outcome) = "holdfast_span_exports_total";
}
