//! `holdfast trace`: the packets, decisions and deliveries of one identity, live and from every node.

use std::time::{Duration, Instant};

use clap::Args;
use holdfast_model::HumanDuration;
use http::Method;
use serde_json::{Value, json};

use crate::device::Target;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::output::{Format, escape, json_line, plain};

/// Follow one device or module live: its packets, the hub's decisions and deliveries, at every node
#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    target: Target,
    /// How long, at most 1h; Ctrl-C ends it earlier
    #[arg(long = "for", value_name = "DURATION", default_value = "5m")]
    duration: HumanDuration,
    /// Show the first 1,024 bytes of payloads too
    #[arg(long)]
    payload: bool,
}

pub(crate) fn run(args: &Trace) -> Result<(), Failure> {
    let hub = args.target.hub()?;
    let path = format!("/holdfast/v1/trace/{}", args.target.segments()?);
    let is_json = args.target.output() == Some(Format::Json);
    let ends = Instant::now() + args.duration.get();
    block_on(async {
        let mut number = Value::Null;
        let mut silent = Vec::new();
        loop {
            // Rounded up, so that the trace does not end before the last call.
            let left = ends.saturating_duration_since(Instant::now());
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let mut request = Call::new(Method::POST, path.clone());
            request.body = Some(json!({"seconds": seconds, "payload": args.payload}));
            if let (Some(body), Value::String(_)) = (&mut request.body, &number) {
                body["trace"] = number.clone();
            }
            request.device_wait = Duration::from_secs(5);
            let mut answer = call(&hub, request).await?;
            if number.is_null() {
                eprintln!("tracing for {}; Ctrl-C ends it", args.duration);
            }
            show(&answer, is_json, &mut silent)?;
            if left.is_zero() {
                return Ok(());
            }
            number = answer["trace"].take();
        }
    })
}

fn show(answer: &Value, is_json: bool, silent: &mut Vec<String>) -> Result<(), Failure> {
    for event in answer["events"].as_array().into_iter().flatten() {
        let line = if is_json { json_line(event) } else { line(event) };
        crate::print(&format!("{line}\n"))?;
    }
    if let Some(dropped) = answer["dropped"].as_u64().filter(|dropped| *dropped > 0) {
        eprintln!("{dropped} events dropped");
    }
    let now: Vec<String> = answer["notAsked"].as_array().into_iter().flatten().map(plain).collect();
    if now != *silent {
        if !now.is_empty() {
            eprintln!("no answer from {}: their events are missing", now.join(", "));
        }
        *silent = now;
    }
    Ok(())
}

fn line(event: &Value) -> String {
    let text = |name: &str| escape(event[name].as_str().unwrap_or("-")).into_owned();
    let payload = match &event["payload"] {
        Value::Null => String::new(),
        payload => format!("  {}", plain(payload)),
    };
    format!(
        "{}  {}  {:<8}  {}{payload}",
        text("time"),
        text("node"),
        text("kind"),
        text("event")
    )
}
