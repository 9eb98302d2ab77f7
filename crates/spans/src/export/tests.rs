//! The exporter against a small collector that answers as it is set to.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_model::{HumanDuration, Ratio};
use holdfast_tasks::sync::Mutex;
use holdfast_testkit::eventually;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{Attribute, SpanName};

/// A request as the collector has read it: its head, and the spans.
type Received = (String, ExportTraceServiceRequest);

/// A status and a body.
type Reply = (u16, Vec<u8>);

/// Answers with the statuses that wait, then with 200.
#[derive(Clone, Default)]
struct Collector {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<Reply>>>,
}

impl Collector {
    fn start(&self, listener: TcpListener) {
        let collector = self.clone();
        holdfast_tasks::spawn("collector", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let collector = collector.clone();
                holdfast_tasks::spawn("collector-connection", async move { collector.serve(socket).await });
            }
        });
    }

    async fn serve(&self, mut socket: TcpStream) {
        let mut input = Vec::new();
        loop {
            let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
                if socket.read_buf(&mut input).await.unwrap_or(0) == 0 {
                    return;
                }
                continue;
            };
            let head = String::from_utf8(input[..end].to_vec()).unwrap();
            let length = |line: &str| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
            let length: usize = head.lines().find_map(length).unwrap();
            while input.len() < end + 4 + length {
                if socket.read_buf(&mut input).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let request = ExportTraceServiceRequest::decode(&input[end + 4..end + 4 + length]).unwrap();
            input.drain(..end + 4 + length);
            let (status, body) = self.answers.lock().pop_front().unwrap_or((200, Vec::new()));
            self.received.lock().push((head, request));
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            if socket.write_all(&[answer.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    }

    fn requests(&self) -> usize {
        self.received.lock().len()
    }

    /// The names of the spans of each request.
    fn names(&self) -> Vec<Vec<String>> {
        let names = |(_, request): &Received| {
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            scopes
                .flat_map(|scope| &scope.spans)
                .map(|span| span.name.clone())
                .collect()
        };
        self.received.lock().iter().map(names).collect()
    }
}

fn exporter(port: u16, headers_file: Option<PathBuf>) -> (Tracer, Exporter) {
    let config = TracingConfig {
        endpoint: format!("http://127.0.0.1:{port}"),
        sample_ratio: Ratio::ONE,
        headers_file,
        interval: HumanDuration::millis(50),
        resource_attributes: vec!["deployment.environment.name=test".to_owned()],
        queue: 64,
        ..TracingConfig::default()
    };
    let resource = Resource {
        instance: "node-1".to_owned(),
        node: 7,
        hub: "hub.example".to_owned(),
    };
    let (tracer, exporter) = Exporter::new(&config, &resource);
    (tracer, exporter.unwrap())
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn value(key: &str, attributes: &[KeyValue]) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.unwrap_or_else(|| panic!("no {key}")).value.clone();
    format!("{:?}", value.unwrap().value.unwrap())
}

#[tokio::test]
async fn spans_arrive_with_what_a_collector_needs_to_know() {
    let (listener, port) = listener().await;
    let collector = Collector::default();
    collector.start(listener);
    let dir = tempfile::tempdir().unwrap();
    let headers = dir.path().join("headers");
    std::fs::write(&headers, "Authorization: Bearer a:b\n\nX-Scope: one\n").unwrap();
    let (tracer, exporter) = exporter(port, Some(headers));
    let mut span = tracer.enter(SpanName::Connect, None);
    span.set(Attribute::Identity, || "device-1");
    span.set(Attribute::ClientPort, || 4711_usize);
    span.event("accepted");
    span.fail("expired", || "the token has expired".to_owned());
    let context = span.context().unwrap();
    drop(span.child(SpanName::Authenticate));
    drop(span);
    let stop = Stop::new();
    let running = holdfast_tasks::spawn("exporter", exporter.run(stop.clone()));
    eventually("the spans", || collector.requests() > 0).await;
    stop.enter(Phase::Closing);
    running.await.unwrap();

    let (head, request) = collector.received.lock().pop().unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    let head = head.to_lowercase();
    for line in [
        "content-type: application/x-protobuf",
        "authorization: bearer a:b",
        "x-scope: one",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("json"), "{head}");
    let resource = &request.resource_spans[0];
    let of_node = &resource.resource.as_ref().unwrap().attributes;
    for (key, expected) in [
        ("service.name", "holdfast"),
        ("service.instance.id", "node-1"),
        ("holdfast.hub", "hub.example"),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(value(key, of_node), format!("StringValue({expected:?})"));
    }
    let [child, connect] = &resource.scope_spans[0].spans[..] else {
        panic!("{resource:?}")
    };
    assert_eq!(
        (child.name.as_str(), connect.name.as_str()),
        ("authenticate", "connect")
    );
    assert_eq!(connect.trace_id, context.trace);
    assert_eq!(
        (&child.trace_id, &child.parent_span_id),
        (&connect.trace_id, &connect.span_id)
    );
    assert!(connect.parent_span_id.is_empty() && connect.kind == 2);
    assert!(connect.start_time_unix_nano <= child.start_time_unix_nano);
    assert_eq!(
        value("messaging.client.id", &connect.attributes),
        "StringValue(\"device-1\")"
    );
    assert_eq!(value("client.port", &connect.attributes), "IntValue(4711)");
    assert_eq!(value("error.type", &connect.attributes), "StringValue(\"expired\")");
    assert_eq!(connect.status.as_ref().unwrap().code, 2);
    assert_eq!(connect.events[0].name, "accepted");
}

#[tokio::test]
async fn a_collector_that_is_absent_or_busy_gets_them_later_and_one_that_refuses_does_not() {
    let (place, port) = listener().await;
    drop(place);
    let (tracer, exporter) = exporter(port, None);
    let stop = Stop::new();
    let running = holdfast_tasks::spawn("exporter", exporter.run(stop.clone()));
    drop(tracer.enter(SpanName::Connect, None));
    eventually("the first is taken", || tracer.waiting() == 0).await;
    // Far more than the queue takes, meanwhile: the hub does not wait.
    for _ in 0..1000 {
        drop(tracer.enter(SpanName::Telemetry, None));
    }
    let collector = Collector::default();
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "no".to_owned(),
        }),
    };
    collector.answers.lock().extend([
        (503, Vec::new()),
        (200, Vec::new()),
        (400, b"no".to_vec()),
        (200, partial.encode_to_vec()),
    ]);
    collector.start(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    eventually("three requests", || collector.requests() >= 3).await;
    drop(tracer.enter(SpanName::InvokeMethod, None));
    eventually("four requests", || collector.requests() >= 4).await;
    stop.enter(Phase::Closing);
    running.await.unwrap();
    let names = collector.names();
    assert_eq!(names[0], ["connect"]);
    assert_eq!(names[1], ["connect"], "again after 503");
    assert_eq!(
        names[2],
        vec!["receive telemetry"; 64],
        "what the queue took; refused with 400"
    );
    assert_eq!(names[3], ["invoke method"], "and not repeated");
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn a_collector_that_never_answers_stops_no_node() {
    let (listener, port) = listener().await;
    let (tracer, exporter) = exporter(port, None);
    let stop = Stop::new();
    let running = holdfast_tasks::spawn("exporter", exporter.run(stop.clone()));
    drop(tracer.enter(SpanName::Connect, None));
    let (socket, _) = listener.accept().await.unwrap();
    drop(tracer.enter(SpanName::Connect, None));
    stop.enter(Phase::Closing);
    tokio::time::timeout(STOP_TIMEOUT * 3, running).await.unwrap().unwrap();
    drop(socket);
}

#[test]
fn a_line_that_is_no_header_is_named_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    for text in ["a: b\nsecret", "a b: secret", "a: secret\u{1}"] {
        std::fs::write(&file, text).unwrap();
        let error = parse_headers(&file).unwrap_err();
        assert!(error.contains("line") && !error.contains("secret"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(parse_headers(&file).unwrap_err().contains("cannot be read"));
}
