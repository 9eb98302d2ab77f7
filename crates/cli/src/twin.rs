//! `holdfast twin …`: twins over the REST API, in the habits of `az iot hub device-twin` and `module-twin`.

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use crate::device::Target;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::output::{self, Format};

/// The columns of a twin.
const COLUMNS: [(&str, &str); 6] = [
    ("DEVICE", "/deviceId"),
    ("MODULE", "/moduleId"),
    ("VERSION", "/version"),
    ("DESIRED", "/properties/desired/$version"),
    ("REPORTED", "/properties/reported/$version"),
    ("CONNECTION", "/connectionState"),
];

/// The columns of the history.
const HISTORY_COLUMNS: [(&str, &str); 4] = [
    ("VERSION", "/version"),
    ("UPDATED", "/updatedTime"),
    ("TAGS", "/tags"),
    ("DESIRED", "/desired"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the twin of a device or module
    Show {
        #[command(flatten)]
        target: Target,
    },
    /// Change tags and desired properties; what is not named stays, null removes a key
    Update {
        #[command(flatten)]
        target: Target,
        /// A JSON object, or @FILE with one
        #[arg(long, value_name = "JSON", required_unless_present = "desired")]
        tags: Option<String>,
        /// A JSON object, or @FILE with one
        #[arg(long, value_name = "JSON")]
        desired: Option<String>,
        /// Change it only in this version
        #[arg(long, short = 'e')]
        etag: Option<String>,
    },
    /// Replace the tags or the desired properties that the document has
    Replace {
        #[command(flatten)]
        target: Target,
        /// A twin as `show` prints it, or @FILE with one
        #[arg(long, short = 'j', value_name = "JSON")]
        json: String,
        /// Replace it only in this version
        #[arg(long, short = 'e')]
        etag: Option<String>,
    },
    /// Show the last versions of tags and desired properties, newest first
    History {
        #[command(flatten)]
        target: Target,
    },
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Show { target } => {
            let request = Call::new(Method::GET, path(&target)?);
            target.show_as(&block_on(call(&target.hub()?, request))?, &COLUMNS)
        }
        Command::Update {
            target,
            tags,
            desired,
            etag,
        } => {
            let mut body = Map::new();
            if let Some(tags) = tags {
                body.insert("tags".to_owned(), read("--tags", &tags)?);
            }
            if let Some(desired) = desired {
                let desired = read("--desired", &desired)?;
                body.insert("properties".to_owned(), json!({"desired": desired}));
            }
            write(&target, Method::PATCH, Value::Object(body), etag.as_deref())
        }
        Command::Replace { target, json, etag } => {
            let document = read("--json", &json)?;
            // Read-only fields stay behind: of a document with neither section nothing would be left.
            if document.get("tags").is_none() && document.pointer("/properties/desired").is_none() {
                return Err(Failure::usage(
                    "--json has neither \"tags\" nor \"properties\": {\"desired\"}",
                ));
            }
            write(&target, Method::PUT, document, etag.as_deref())
        }
        Command::History { target } => {
            let path = format!("/holdfast/v1/twins/{}/history", target.segments()?);
            let answer = block_on(call(&target.hub()?, Call::new(Method::GET, path)))?;
            match target.format() {
                Format::Json => target.show_as(&answer, &HISTORY_COLUMNS),
                Format::Table => output::show(&answer["versions"], Format::Table, &HISTORY_COLUMNS),
            }
        }
    }
}

fn write(target: &Target, method: Method, body: Value, etag: Option<&str>) -> Result<(), Failure> {
    let mut request = Call::new(method, path(target)?);
    request.body = Some(body);
    request.if_match = etag;
    target.show_as(&block_on(call(&target.hub()?, request))?, &COLUMNS)
}

fn path(target: &Target) -> Result<String, Failure> {
    Ok(format!("/twins/{}", target.segments()?))
}

/// JSON from the command line, or from the file behind `@`.
fn read(option: &str, text: &str) -> Result<Value, Failure> {
    let file;
    let text = match text.strip_prefix('@') {
        Some(name) => {
            let read = std::fs::read_to_string(name);
            file = read.map_err(|error| Failure::usage(format!("{option}: cannot read {name}: {error}")))?;
            &file
        }
        None => text,
    };
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("{option} is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_given_as_text_or_as_a_file() {
        assert_eq!(read("--tags", r#"{"a":1}"#).unwrap(), json!({"a": 1}));
        let error = read("--tags", "{").unwrap_err();
        assert!(format!("{error:?}").contains("--tags is not JSON"), "{error:?}");
        let error = read("--json", "@/no/such/file").unwrap_err();
        assert!(format!("{error:?}").contains("/no/such/file"), "{error:?}");
    }
}
