//! Spans as OTLP messages (<https://opentelemetry.io/docs/specs/otlp/>).

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue as Any, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};

use crate::table::SCHEMA_URL;
use crate::tracer::{FinishedSpan, Value};

/// `SpanFlags`: the lower bit says sampled.
const FLAG_SAMPLED: u32 = 1;

/// The request for `spans` of one node.
pub(crate) fn request(resource: &[(String, String)], spans: Vec<FinishedSpan>) -> ExportTraceServiceRequest {
    let attributes = resource.iter().map(|(key, value)| text(key, value.clone()));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.collect(),
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "holdfast".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans: spans.into_iter().map(encode).collect(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

fn encode(finished: FinishedSpan) -> Span {
    let fixed = finished
        .name
        .fixed()
        .iter()
        .map(|(key, value)| text(key, (*value).to_owned()));
    let varying = finished.attributes.into_iter().map(|(key, value)| match value {
        Value::Text(value) => text(key.as_str(), value.into_owned()),
        Value::Number(number) => pair(key.as_str(), AnyValue::IntValue(number)),
    });
    let began = nanos(finished.began);
    let took = u64::try_from(finished.took.as_nanos()).unwrap_or(u64::MAX);
    let links = finished.links.iter().map(|link| span::Link {
        trace_id: link.trace.to_vec(),
        span_id: link.span.to_vec(),
        flags: u32::from(link.is_sampled),
        ..span::Link::default()
    });
    let events = finished.events.iter().map(|(name, at)| span::Event {
        time_unix_nano: nanos(*at),
        name: (*name).to_owned(),
        ..span::Event::default()
    });
    Span {
        trace_id: finished.context.trace.to_vec(),
        span_id: finished.context.span.to_vec(),
        parent_span_id: finished.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        flags: FLAG_SAMPLED,
        name: finished.name.as_str().to_owned(),
        kind: finished.name.role() as i32,
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(took),
        attributes: fixed.chain(varying).collect(),
        links: links.collect(),
        dropped_links_count: finished.dropped_links,
        events: events.collect(),
        status: finished.error.map(|error| Status {
            message: error.into_owned(),
            code: StatusCode::Error.into(),
        }),
        ..Span::default()
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: String) -> KeyValue {
    pair(key, AnyValue::StringValue(value))
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(Any { value: Some(value) }),
        ..KeyValue::default()
    }
}
