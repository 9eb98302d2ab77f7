//! `holdfast ca …`: the CAs whose devices the hub accepts, in the habits of `az iot hub certificate`, and revoked certificates.

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
pub(crate) const PATH: &str = "/holdfast/v1/certificates";

const COLUMNS: [(&str, &str); 4] = [
    ("NAME", "/name"),
    ("SUBJECT", "/properties/subject"),
    ("VERIFIED", "/properties/isVerified"),
    ("ENDS", "/properties/expiry"),
];

/// Where it has the deny list.
const REVOCATIONS: &str = "/holdfast/v1/revocations";

const REVOKED_COLUMNS: [(&str, &str); 5] = [
    ("CERTIFICATE", "/id"),
    ("CA", "/ca"),
    ("REASON", "/reason"),
    ("SINCE", "/revokedTime"),
    ("COMMENT", "/comment"),
];

const CRL_COLUMNS: [(&str, &str); 6] = [
    ("CA", "/ca"),
    ("NUMBER", "/number"),
    ("ENTRIES", "/entries"),
    ("MADE", "/thisUpdate"),
    ("NEXT", "/nextUpdate"),
    ("ENDED", "/hasEnded"),
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
    /// Put a certificate, a device's or an issuer's, on the deny list; its connections are closed within a second
    Revoke {
        #[command(flatten)]
        certificate: Named,
        /// unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, certificateHold,
        /// privilegeWithdrawn or aACompromise
        #[arg(long, default_value = "unspecified")]
        reason: String,
        /// For people, at most 256 bytes
        #[arg(long)]
        comment: Option<String>,
        #[command(flatten)]
        login: LoginArgs,
        /// How to show the result
        #[arg(short, long, default_value = "json")]
        output: Format,
    },
    /// Take a certificate off the deny list
    Unrevoke {
        /// The entry as `holdfast ca revoked` shows it
        #[arg(value_name = "CERTIFICATE")]
        id: String,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// List the deny list
    Revoked {
        /// How to show it
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// List the devices that are still below a CA or an intermediate, before it is replaced or removed
    PlanRollover {
        /// A CA of the hub
        #[arg(value_name = "NAME", required_unless_present = "issuer")]
        name: Option<String>,
        /// In its place: the SHA-256 of any issuer, such as an intermediate that devices send
        #[arg(long, value_name = "SHA256", conflicts_with = "name")]
        issuer: Option<String>,
        /// One JSON document: counts and devices
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Revocation lists of the CAs
    Crl {
        #[command(subcommand)]
        command: CrlCommand,
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

#[derive(Debug, Subcommand)]
pub enum CrlCommand {
    /// Give a CA its current revocation list; the connections of revoked certificates are closed within a second
    #[command(visible_alias = "add")]
    Upload {
        #[command(flatten)]
        ca: Ca,
        /// The list, PEM or DER, signed by the CA
        #[arg(short = 'p', long, visible_alias = "path", value_name = "FILE")]
        file: PathBuf,
    },
    /// Show what is known of a CA's revocation list
    Show {
        #[command(flatten)]
        ca: Ca,
    },
    /// Remove a CA's revocation list; what it has revoked is accepted again
    Delete {
        #[command(flatten)]
        ca: Ca,
    },
}

/// A certificate in one of three ways.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Named {
    /// Its SHA-256, 64 hexadecimal digits
    #[arg(long, value_name = "SHA256", required_unless_present_any = ["certificate", "ca"], conflicts_with_all = ["certificate", "ca"])]
    thumbprint: Option<String>,
    /// The certificate itself, PEM or DER
    #[arg(long, value_name = "FILE", conflicts_with = "ca")]
    certificate: Option<PathBuf>,
    /// The CA of the hub that has issued it
    #[arg(long, value_name = "NAME", requires = "serial")]
    ca: Option<String>,
    /// Its serial number, hexadecimal
    #[arg(long, value_name = "HEX", requires = "ca")]
    serial: Option<String>,
}

impl Named {
    fn body(&self) -> Result<Value, Failure> {
        Ok(match (&self.thumbprint, &self.certificate) {
            (Some(thumbprint), _) => json!({"thumbprint": thumbprint}),
            (None, Some(file)) => json!({"certificate": certificate(file)?}),
            (None, None) => json!({"ca": self.ca, "serialNumber": self.serial}),
        })
    }
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
        Command::Revoke {
            certificate,
            reason,
            comment,
            login,
            output,
        } => {
            let mut request = Call::new(Method::POST, REVOCATIONS.to_owned());
            let mut body = certificate.body()?;
            body["reason"] = reason.as_str().into();
            if let Some(comment) = comment {
                body["comment"] = comment.as_str().into();
            }
            request.body = Some(body);
            let answer = block_on(call(&login.hub()?, request))?;
            output::show(&answer, *output, &REVOKED_COLUMNS)
        }
        Command::Unrevoke { id, login } => {
            let request = Call::new(Method::DELETE, format!("{REVOCATIONS}/{}", encode(id)));
            block_on(call(&login.hub()?, request)).map(|_| ())
        }
        Command::Revoked { output, login } => output::show(&Value::Array(revoked(login)?), *output, &REVOKED_COLUMNS),
        Command::PlanRollover {
            name,
            issuer,
            json,
            login,
        } => plan_rollover(name.as_deref(), issuer.as_deref(), *json, login),
        Command::Crl { command } => crl(command),
        Command::Delete { ca, etag } => ca.call(Method::DELETE, "", etag.as_deref(), None).map(|_| ()),
    }
}

/// Where it says which devices are below an issuer.
const ROLLOVER: &str = "/holdfast/v1/rollover";

const ROLLOVER_COLUMNS: [(&str, &str); 5] = [
    ("DEVICE", "/deviceId"),
    ("MODULE", "/moduleId"),
    ("CONNECTED", "/connected"),
    ("LAST ACTIVITY", "/lastActivityTime"),
    ("CA", "/ca"),
];

/// All devices below an issuer, page by page, and how many are below others.
fn plan_rollover(name: Option<&str>, issuer: Option<&str>, json: bool, login: &LoginArgs) -> Result<(), Failure> {
    let hub = login.hub()?;
    let issuer = match (name, issuer) {
        (Some(name), _) => format!("ca={}", encode(name)),
        (None, issuer) => format!("issuer={}", encode(issuer.unwrap_or_default())),
    };
    let (mut devices, mut counts) = (Vec::new(), [0; 3]);
    let mut query = issuer.clone();
    loop {
        let mut request = Call::new(Method::GET, ROLLOVER.to_owned());
        request.query = &query;
        let mut answer = block_on(call(&hub, request))?;
        for (count, field) in counts.iter_mut().zip(["below", "elsewhere", "unknown"]) {
            *count += answer["counts"][field].as_u64().unwrap_or_default();
        }
        if let Value::Array(page) = answer["devices"].take() {
            devices.extend(page);
        }
        match answer["continuation"].as_str() {
            Some(after) => query = format!("{issuer}&after={}", encode(after)),
            None => break,
        }
    }
    let [below, elsewhere, unknown] = counts;
    if json {
        let document = json!({
            "counts": {"below": below, "elsewhere": elsewhere, "unknown": unknown},
            "devices": devices,
        });
        return output::show(&document, Format::Json, &ROLLOVER_COLUMNS);
    }
    output::show(&Value::Array(devices), Format::Table, &ROLLOVER_COLUMNS)?;
    crate::print(&format!(
        "{below} devices and modules are below it, {elsewhere} below other CAs; of {unknown} no connection with a chain is known\n"
    ))
}

/// The whole deny list, page by page.
fn revoked(login: &LoginArgs) -> Result<Vec<Value>, Failure> {
    let hub = login.hub()?;
    let mut entries = Vec::new();
    let mut query = String::new();
    loop {
        let mut request = Call::new(Method::GET, REVOCATIONS.to_owned());
        request.query = &query;
        let mut answer = block_on(call(&hub, request))?;
        if let Value::Array(page) = answer["value"].take() {
            entries.extend(page);
        }
        match answer["continuation"].as_str() {
            Some(after) => query = format!("after={}", encode(after)),
            None => return Ok(entries),
        }
    }
}

fn crl(command: &CrlCommand) -> Result<(), Failure> {
    let at = |ca: &Ca, method| Call::new(method, format!("{PATH}/{}/crl", encode(&ca.name)));
    let show = |ca: &Ca, answer: &Value| output::show(answer, ca.output.unwrap_or(Format::Json), &CRL_COLUMNS);
    match command {
        CrlCommand::Upload { ca, file } => {
            let bytes = std::fs::read(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
            let mut request = at(ca, Method::PUT);
            request.raw = Some(bytes);
            show(ca, &block_on(call(&ca.login.hub()?, request))?)
        }
        CrlCommand::Show { ca } => show(ca, &block_on(call(&ca.login.hub()?, at(ca, Method::GET)))?),
        CrlCommand::Delete { ca } => block_on(call(&ca.login.hub()?, at(ca, Method::DELETE))).map(|_| ()),
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
