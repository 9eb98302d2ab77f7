//! `holdfast ca …`: the CAs whose devices the hub accepts, in the habits of `az iot hub certificate`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

/// Where the REST API has them (Spec rest §10).
const PATH: &str = "/holdfast/v1/certificates";

const COLUMNS: [(&str, &str); 4] = [
    ("NAME", "/name"),
    ("SUBJECT", "/properties/subject"),
    ("VERIFIED", "/properties/isVerified"),
    ("ENDS", "/properties/expiry"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a CA, root or intermediate; its devices are accepted once it is verified
    #[command(visible_alias = "create")]
    Add {
        #[command(flatten)]
        ca: Ca,
        /// Its certificate, PEM or DER
        #[arg(short = 'p', long, visible_alias = "path", value_name = "FILE")]
        file: PathBuf,
        /// Take it as verified, without a proof that you have its key
        #[arg(long, visible_alias = "verified-on-upload")]
        verified: bool,
        /// Replace the certificate of a CA with this name, in this version; `*` for any
        #[arg(long)]
        etag: Option<String>,
    },
    /// List the CAs
    List {
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Show one CA, certificate included
    Show {
        #[command(flatten)]
        ca: Ca,
    },
    /// Prove that you have a CA's key: without --proof it prints a code, with it the code's certificate is checked
    Verify {
        #[command(flatten)]
        ca: Ca,
        /// A certificate that the CA has signed, with the code as its common name; PEM or DER
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
        /// Only in this version
        #[arg(long)]
        etag: Option<String>,
    },
    /// Remove a CA; the connections of its devices are closed
    Delete {
        #[command(flatten)]
        ca: Ca,
        /// Only in this version
        #[arg(long)]
        etag: Option<String>,
    },
}

/// A CA of a hub.
#[derive(Debug, Args)]
pub struct Ca {
    /// 1 to 64 letters, digits and . - _
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
    /// How to show the result
    #[arg(short, long)]
    output: Option<Format>,
}

impl Ca {
    /// Calls `below` the CA's path; the hub's answer.
    fn call(&self, method: Method, below: &str, etag: Option<&str>, body: Option<Value>) -> Result<Value, Failure> {
        let mut request = Call::new(method, format!("{PATH}/{}{below}", encode(&self.name)));
        request.if_match = etag;
        request.body = body;
        block_on(call(&self.login.hub()?, request))
    }

    fn show(&self, answer: &Value) -> Result<(), Failure> {
        output::show(answer, self.output.unwrap_or(Format::Json), &COLUMNS)
    }
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Add {
            ca,
            file,
            verified,
            etag,
        } => {
            let mut properties = json!({"certificate": certificate(file)?});
            if *verified {
                properties["isVerified"] = true.into();
            }
            let body = json!({"properties": properties});
            ca.show(&ca.call(Method::PUT, "", etag.as_deref(), Some(body))?)
        }
        Command::List { output, login } => {
            let mut answer = block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))?;
            output::show(&answer["value"].take(), *output, &COLUMNS)
        }
        Command::Show { ca } => ca.show(&ca.call(Method::GET, "", None, None)?),
        Command::Verify { ca, proof: None, etag } => {
            let answer = ca.call(Method::POST, "/generateVerificationCode", etag.as_deref(), None)?;
            let code = answer["properties"]["verificationCode"].as_str().unwrap_or_default();
            match ca.output {
                Some(Format::Json) => ca.show(&answer),
                _ => crate::print(&format!("{}\n", output::escape(code))),
            }
        }
        Command::Verify {
            ca,
            proof: Some(proof),
            etag,
        } => {
            let body = json!({"certificate": certificate(proof)?});
            ca.show(&ca.call(Method::POST, "/verify", etag.as_deref(), Some(body))?)
        }
        Command::Delete { ca, etag } => ca.call(Method::DELETE, "", etag.as_deref(), None).map(|_| ()),
    }
}

/// A certificate as the REST API takes it: PEM text, or base64 of DER.
fn certificate(file: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(der) => STANDARD.encode(der.as_bytes()),
    })
}
