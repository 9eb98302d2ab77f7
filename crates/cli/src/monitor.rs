//! `holdfast monitor-events`: the events of devices, as they arrive.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use holdfast_amqp::message::{Body, Message, id_text};
use holdfast_amqp::selector::Start;
use holdfast_amqp::types::{Map, Value};
use serde_json::{Map as Object, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::events;
use crate::exit_code::{Failure, Outcome};
use crate::http::block_on;
use crate::hub::LoginArgs;
use crate::output::{escape, json_line};

/// No event for this long ends nothing: a year, which no timer overflows on.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of a payload that a line of text shows.
const SHOWN_BYTES: usize = 512;

/// Show what devices send, live, until Ctrl-C
#[derive(Debug, Args)]
pub struct Monitor {
    /// Only events of this device; a * at the end matches any rest
    #[arg(short = 'd', long = "device-id", value_name = "DEVICE")]
    device_id: Option<String>,
    /// Only events of this module
    #[arg(short = 'm', long = "module-id", value_name = "MODULE", requires = "device_id")]
    module_id: Option<String>,
    /// The consumer group
    #[arg(long, visible_alias = "cg", value_name = "GROUP", default_value = "$Default")]
    consumer_group: String,
    /// Where to start: latest, oldest, an RFC 3339 time, or milliseconds since 1970
    #[arg(long, visible_alias = "et", default_value = "latest", value_parser = parse_start)]
    from: Start,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop when no event has come for this many seconds; 0: never
    #[arg(long, visible_alias = "to", value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    /// One line of text, or of JSON, per event
    #[arg(short, long, default_value = "text")]
    output: Form,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

pub(crate) fn run(args: &Monitor) -> Result<(), Failure> {
    let hub = args.login.hub()?;
    if args.count == Some(0) {
        return Ok(());
    }
    block_on(async {
        let reading = async {
            let mut client = events::connect(&hub).await?;
            let mut links = Vec::new();
            let mut partitions = Vec::new();
            for partition in client.partitions().await? {
                links.push(client.receive(&partition, &args.consumer_group, args.from).await?);
                partitions.push(partition);
            }
            if args.output == Form::Text {
                eprintln!(
                    "reading events of {} in {}; Ctrl-C stops",
                    hub.host, args.consumer_group
                );
            }
            let timeout = match args.timeout {
                0 => FOREVER,
                seconds => Duration::from_secs(seconds),
            };
            let mut shown = 0;
            let show = |link, event: &Message<'_>| {
                if args.matches(event) {
                    let at = links.iter().position(|known| *known == link);
                    let partition = at.map_or("?", |at| &partitions[at]);
                    let line = match args.output {
                        Form::Json => json_line(&to_json(partition, event)),
                        Form::Text => escape(&to_text(partition, event)).into_owned(),
                    };
                    crate::print(&format!("{line}\n")).map_err(|failure| anyhow::anyhow!(failure.message))?;
                    shown += 1;
                }
                Ok(args.count.is_none_or(|count| shown < count))
            };
            client.events(&links, timeout, show).await?;
            Ok(())
        };
        tokio::select! {
            biased;
            result = reading => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
    .map_err(|failure: Failure| match failure.outcome {
        Outcome::Failed => Failure {
            outcome: Outcome::Unreachable,
            message: escape(&failure.message).into_owned(),
            ..failure
        },
        _ => failure,
    })
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "latest" | "now" => return Ok(Start::Latest),
        "oldest" | "start" => return Ok(Start::Oldest),
        _ => {}
    }
    let millis = match text.parse::<i64>() {
        Ok(millis) => millis,
        Err(_) => {
            let time = OffsetDateTime::parse(text, &Rfc3339)
                .map_err(|_| "write latest, oldest, a time such as 2026-11-24T08:00:00Z, or milliseconds since 1970")?;
            i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|error| error.to_string())?
        }
    };
    Ok(Start::Enqueued {
        millis,
        inclusive: true,
    })
}

impl Monitor {
    fn matches(&self, event: &Message<'_>) -> bool {
        let is = |wanted: &Option<String>, key: &str| match wanted {
            None => true,
            Some(wanted) => {
                let found = annotation(event, key)
                    .and_then(|value| value.text())
                    .unwrap_or_default();
                match wanted.strip_suffix('*') {
                    Some(prefix) => found.starts_with(prefix),
                    None => found == wanted,
                }
            }
        };
        is(&self.device_id, "iothub-connection-device-id") && is(&self.module_id, "iothub-connection-module-id")
    }
}

fn annotation<'a>(event: &Message<'a>, key: &str) -> Option<Value<'a>> {
    event.message_annotations.get(key).ok().flatten()
}

/// `12:00:01.250 dev-1 #42 {"t":20} temperatureAlert=true`
fn to_text(partition: &str, event: &Message<'_>) -> String {
    let text = |key: &str| annotation(event, key).and_then(|value| value.text()).unwrap_or("-");
    let time = annotation(event, "x-opt-enqueued-time")
        .and_then(millis)
        .map_or_else(|| "-".to_owned(), time_text);
    let sequence = annotation(event, "x-opt-sequence-number")
        .and_then(|value| value.integer())
        .unwrap_or(-1);
    let module = annotation(event, "iothub-connection-module-id").and_then(|value| value.text());
    let module = module.map(|module| format!("/{module}")).unwrap_or_default();
    let mut line = format!(
        "{time}  {}{module}  {partition}:{sequence}  {}",
        text("iothub-connection-device-id"),
        match payload(event) {
            Json::String(text) => shorten(&text),
            other => shorten(&other.to_string()),
        }
    );
    for (name, value) in object(event.application_properties) {
        line.push_str(&format!(
            "  {name}={}",
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        ));
    }
    line
}

/// The shape of `az iot hub monitor-events`, with partition and position added.
fn to_json(partition: &str, event: &Message<'_>) -> Json {
    let text = |key: &str| {
        annotation(event, key)
            .and_then(|value| value.text())
            .unwrap_or_default()
            .to_owned()
    };
    let system = event.properties().unwrap_or_default();
    let mut fields = Object::new();
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put(
        "message_id",
        system.message_id.and_then(id_text).map(|id| id.into_owned().into()),
    );
    put(
        "correlation_id",
        system.correlation_id.and_then(id_text).map(|id| id.into_owned().into()),
    );
    put(
        "user_id",
        system.user_id.map(|id| String::from_utf8_lossy(id).into_owned().into()),
    );
    put("to", system.to.map(Into::into));
    put("content_type", system.content_type.map(Into::into));
    put("content_encoding", system.content_encoding.map(Into::into));
    put(
        "absolute_expiry_time",
        system.absolute_expiry_time.map(|time| time_text(time).into()),
    );
    put("creation_time", system.creation_time.map(|time| time_text(time).into()));
    json!({"event": {
        "origin": text("iothub-connection-device-id"),
        "module": text("iothub-connection-module-id"),
        "interface": text("dt-dataschema"),
        "component": text("dt-subject"),
        "partition": partition,
        "payload": payload(event),
        "properties": {"system": fields, "application": object(event.application_properties)},
        "annotations": object(event.message_annotations),
    }})
}

/// JSON as JSON, text as text, bytes as base64.
fn payload(event: &Message<'_>) -> Json {
    let body = match event.body {
        Body::Data(first, 1) => first.to_vec(),
        _ => event.data().collect::<Vec<_>>().concat(),
    };
    match String::from_utf8(body) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(json @ (Json::Object(_) | Json::Array(_))) => json,
            _ => Json::String(text),
        },
        Err(error) => json!({"base64": STANDARD.encode(error.as_bytes())}),
    }
}

fn object(map: Map<'_>) -> Object<String, Json> {
    let pairs = map.iter().filter_map(Result::ok);
    pairs
        .filter_map(|(key, value)| Some((key.value().ok()?.text()?.to_owned(), to_value(value.value().ok()?))))
        .collect()
}

fn to_value(value: Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => truth.into(),
        Value::Timestamp(millis) => time_text(millis).into(),
        Value::Float(number) => f64::from(number).into(),
        Value::Double(number) => number.into(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned().into(),
        other => match (other.text(), other.integer(), other.unsigned()) {
            (Some(text), ..) => text.into(),
            (_, Some(number), _) => number.into(),
            (.., Some(number)) => number.into(),
            _ => format!("{other:?}").into(),
        },
    }
}

fn millis(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Timestamp(millis) => Some(millis),
        other => other.integer(),
    }
}

/// RFC 3339 with three digits of fraction, so that lines stay aligned.
fn time_text(millis: i64) -> String {
    OffsetDateTime::from_unix_timestamp(millis.div_euclid(1000))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .and_then(|text| Some(format!("{}.{:03}Z", text.strip_suffix('Z')?, millis.rem_euclid(1000))))
        .unwrap_or_else(|| millis.to_string())
}

fn shorten(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= SHOWN_BYTES) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_where_to_start_is_understood() {
        assert_eq!(parse_start("latest"), Ok(Start::Latest));
        assert_eq!(parse_start("oldest"), Ok(Start::Oldest));
        let at = |millis| {
            Ok(Start::Enqueued {
                millis,
                inclusive: true,
            })
        };
        assert_eq!(parse_start("1700000000123"), at(1_700_000_000_123));
        assert_eq!(parse_start("2023-11-14T22:13:20.123Z"), at(1_700_000_000_123));
        assert_eq!(parse_start("2023-11-14T23:13:20+01:00"), at(1_700_000_000_000));
        assert!(parse_start("yesterday").is_err());
    }

    #[test]
    fn times_have_three_digits_of_fraction() {
        assert_eq!(time_text(1_700_000_000_050), "2023-11-14T22:13:20.050Z");
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_long_payload_is_cut_at_a_character() {
        let text = "ä".repeat(1000);
        let shown = shorten(&text);
        assert!(shown.ends_with("… (2000 bytes)") && shown.len() < 600);
    }
}
