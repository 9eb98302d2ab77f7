//! A collector of OTLP over HTTP, as small as the test needs it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A span as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// `service.instance.id`.
    pub(crate) node: String,
    /// In hexadecimal digits.
    pub(crate) id: String,
    /// The same; empty without one.
    pub(crate) parent: String,
    /// The traces that it is linked to.
    pub(crate) links: Vec<String>,
    pub(crate) events: Vec<String>,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Seen {
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes
            .get(key)
            .unwrap_or_else(|| panic!("no {key} in {self:#?}"))
    }
}

/// The spans of each trace, by its id in hexadecimal digits.
pub(crate) type Traces = BTreeMap<String, Vec<Seen>>;

/// See the module.
pub(crate) struct Collector {
    port: u16,
    traces: Arc<Mutex<Traces>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let traces = Arc::<Mutex<Traces>>::default();
        let entered = Arc::clone(&traces);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let entered = Arc::clone(&entered);
                std::thread::spawn(move || serve(socket, &entered));
            }
        });
        Self { port, traces }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until `find` finds something.
    pub(crate) fn until<T>(&self, what: &str, find: impl Fn(&Traces) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(found) = find(&self.traces.lock().unwrap()) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "never: {what}; there are {:#?}",
                self.traces.lock().unwrap()
            );
            std::thread::sleep(POLL);
        }
    }
}

/// Answers the requests of one connection.
fn serve(mut socket: TcpStream, traces: &Mutex<Traces>) {
    let mut input = Vec::new();
    let read = |input: &mut Vec<u8>, socket: &mut TcpStream| {
        let mut buffer = [0; 16 * 1024];
        let count = socket.read(&mut buffer).unwrap_or(0);
        input.extend_from_slice(&buffer[..count]);
        count > 0
    };
    loop {
        let Some(head) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            if !read(&mut input, &mut socket) {
                return;
            }
            continue;
        };
        let text = String::from_utf8_lossy(&input[..head]).to_lowercase();
        assert!(text.starts_with("post /v1/traces "), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let end = head + 4 + length.unwrap().parse::<usize>().unwrap();
        while input.len() < end {
            if !read(&mut input, &mut socket) {
                return;
            }
        }
        enter(
            &ExportTraceServiceRequest::decode(&input[head + 4..end]).unwrap(),
            &mut traces.lock().unwrap(),
        );
        input.drain(..end);
        if socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .is_err()
        {
            return;
        }
    }
}

fn enter(request: &ExportTraceServiceRequest, traces: &mut Traces) {
    for of_node in &request.resource_spans {
        let resource = texts(&of_node.resource.as_ref().unwrap().attributes);
        for span in of_node.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let seen = Seen {
                name: span.name.clone(),
                node: resource["service.instance.id"].clone(),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
                events: span.events.iter().map(|event| event.name.clone()).collect(),
                attributes: texts(&span.attributes),
            };
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            traces.entry(hex(&span.trace_id)).or_default().push(seen);
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
