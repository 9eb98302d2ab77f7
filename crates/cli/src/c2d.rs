//! `holdfast c2d …`: messages to devices and their queues over the REST API, in the habits of `az iot device c2d-message`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use holdfast_model::{DeviceId, ModuleId, round_trip};
use http::Method;
use serde_json::{Map, Value, json};

use crate::device::{Common, encode};
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::output::{self, Format};

/// The columns of `c2d list`.
const MESSAGES: [(&str, &str); 6] = [
    ("NUMBER", "/sequenceNumber"),
    ("STATE", "/state"),
    ("MESSAGE ID", "/messageId"),
    ("DELIVERIES", "/deliveryCount"),
    ("ENQUEUED", "/enqueuedTimeUtc"),
    ("EXPIRES", "/expiryTimeUtc"),
];
/// The columns of `c2d deadletter`.
const DEAD_LETTERS: [(&str, &str); 5] = [
    ("NUMBER", "/sequenceNumber"),
    ("REASON", "/reason"),
    ("MESSAGE ID", "/messageId"),
    ("DELIVERIES", "/deliveryCount"),
    ("SINCE", "/deadLetteredTimeUtc"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a message to a device
    Send {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        message: Box<Message>,
    },
    /// List the messages that wait for a device
    List {
        #[command(flatten)]
        target: Target,
    },
    /// List the messages that ended without a device completing them
    #[command(visible_alias = "deadletters")]
    Deadletter {
        #[command(flatten)]
        target: Target,
    },
    /// Put dead letters back into the queue
    Requeue {
        #[command(flatten)]
        target: Target,
        /// Only those with these numbers [default: all]
        #[arg(short = 'n', long = "number", value_name = "NUMBER")]
        numbers: Vec<u64>,
    },
    /// Remove all messages that wait for a device; dead letters stay
    Purge {
        #[command(flatten)]
        target: Target,
    },
}

/// A device or module.
#[derive(Debug, Args)]
pub struct Target {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
    /// The device, as in `az iot hub`
    #[arg(short = 'd', long = "device-id", value_name = "DEVICE", conflicts_with = "device")]
    device_id: Option<String>,
    /// A module of the device, which has a queue of its own
    #[arg(short = 'm', long = "module-id", value_name = "MODULE")]
    module_id: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A message, as its options say.
#[derive(Debug, Args)]
pub struct Message {
    /// The payload
    #[arg(long, visible_alias = "da", default_value = "Ping from Holdfast")]
    data: String,
    /// The payload is base64
    #[arg(long)]
    base64: bool,
    /// Properties, as `key=value;key=value`
    #[arg(short = 'p', long = "props", visible_alias = "properties", value_name = "PAIRS")]
    props: Option<String>,
    /// The message's id [default: a new one]
    #[arg(long, visible_alias = "mid")]
    message_id: Option<String>,
    /// The id that it answers
    #[arg(long, visible_alias = "cid")]
    correlation_id: Option<String>,
    /// The sender's user
    #[arg(long, visible_alias = "uid")]
    user_id: Option<String>,
    /// The type of the payload, such as application/json
    #[arg(long, visible_alias = "ct")]
    content_type: Option<String>,
    /// The encoding of the payload
    #[arg(long, visible_alias = "ce", default_value = "utf-8")]
    content_encoding: String,
    /// When it expires, in milliseconds since 1970 [default: the hub's, one hour]
    #[arg(long, visible_alias = "eut", value_name = "MILLISECONDS")]
    expiry_time_utc: Option<i64>,
    /// Feedback that back ends shall get
    #[arg(long)]
    ack: Option<Ack>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Ack {
    None,
    Positive,
    Negative,
    Full,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Send { target, message } => {
            let mut request = Call::new(Method::POST, target.path("/c2d")?);
            request.body = Some(message.document()?);
            target.call(request, &[("NUMBER", "/sequenceNumber"), ("EXPIRES", "/expiryTimeUtc")])
        }
        Command::List { target } => target.list("messages", &MESSAGES),
        Command::Deadletter { target } => target.list("deadLetters", &DEAD_LETTERS),
        Command::Requeue { target, numbers } => {
            let mut request = Call::new(Method::POST, target.path("/c2d/requeue")?);
            if !numbers.is_empty() {
                request.body = Some(json!({"sequenceNumbers": numbers}));
            }
            target.call(request, &[("DEVICE", "/deviceId"), ("REQUEUED", "/requeued")])
        }
        Command::Purge { target } => {
            let path = format!("{}/commands", target.identity()?);
            let columns = [("DEVICE", "/deviceId"), ("PURGED", "/totalMessagesPurged")];
            target.call(Call::new(Method::DELETE, path), &columns)
        }
    }
}

impl Target {
    fn device(&self) -> Result<&str, Failure> {
        let device = self.device.as_deref().or(self.device_id.as_deref());
        let device = device.ok_or_else(|| Failure::usage("which device? give its id"))?;
        DeviceId::parse(device).map_err(|error| Failure::usage(format!("{device:?} is no device id: {error}")))?;
        Ok(device)
    }

    /// The path of the device or module.
    fn identity(&self) -> Result<String, Failure> {
        let device = format!("/devices/{}", encode(self.device()?));
        let Some(module) = &self.module_id else {
            return Ok(device);
        };
        ModuleId::parse(module).map_err(|error| Failure::usage(format!("{module:?} is no module id: {error}")))?;
        Ok(format!("{device}/modules/{}", encode(module)))
    }

    fn path(&self, rest: &str) -> Result<String, Failure> {
        Ok(format!("/holdfast/v1{}{rest}", self.identity()?))
    }

    fn call(&self, request: Call<'_>, columns: &[(&str, &str)]) -> Result<(), Failure> {
        let answer = block_on(call(&self.common.login.hub()?, request))?;
        output::show(&answer, self.common.output.unwrap_or(Format::Json), columns)
    }

    /// Shows one of the lists of a queue.
    fn list(&self, which: &str, columns: &[(&str, &str)]) -> Result<(), Failure> {
        let request = Call::new(Method::GET, self.path("/c2d")?);
        let mut answer = block_on(call(&self.common.login.hub()?, request))?;
        let list = answer.get_mut(which).map(Value::take).unwrap_or_default();
        output::show(&list, self.common.output.unwrap_or(Format::Table), columns)
    }
}

impl Message {
    fn document(&self) -> Result<Value, Failure> {
        let id = || format!("{:032x}", rand::random::<u128>());
        let mut document = json!({
            "messageId": self.message_id.clone().unwrap_or_else(id),
            "contentEncoding": self.content_encoding,
        });
        if self.base64 {
            let is_base64 = STANDARD.decode(&self.data);
            is_base64.map_err(|error| Failure::usage(format!("--data is not base64: {error}")))?;
            document["payloadBase64"] = json!(self.data);
        } else {
            document["payload"] = json!(self.data);
        }
        let texts = [
            ("correlationId", &self.correlation_id),
            ("userId", &self.user_id),
            ("contentType", &self.content_type),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                document[name] = json!(text);
            }
        }
        if let Some(millis) = self.expiry_time_utc {
            let time = round_trip(millis).ok_or_else(|| Failure::usage("--expiry-time-utc is no time"))?;
            document["expiryTimeUtc"] = json!(time);
        }
        if let Some(ack) = self.ack {
            let word = match ack {
                Ack::None => "none",
                Ack::Positive => "positive",
                Ack::Negative => "negative",
                Ack::Full => "full",
            };
            document["ack"] = json!(word);
        }
        if let Some(props) = &self.props {
            document["properties"] = Value::Object(properties(props)?);
        }
        Ok(document)
    }
}

/// `key=value;key=value`.
fn properties(text: &str) -> Result<Map<String, Value>, Failure> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--props: {pair:?} is no key=value")))?;
        Ok((name.to_owned(), json!(value)))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_pairs_between_semicolons() {
        let read = properties("a=b;c=d=e;;f=").unwrap();
        assert_eq!(Value::Object(read), json!({"a": "b", "c": "d=e", "f": ""}));
        assert!(properties("a").is_err());
    }
}
