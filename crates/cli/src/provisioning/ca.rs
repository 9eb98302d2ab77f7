//! `holdfast provisioning ca …`: the hub as a CA of its own for devices, its certificate policies, and what it has issued.
//!
//! Invariant: keys of devices are made here and never leave the machine; a file with a key is readable by its owner alone.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::request;
use crate::device::encode;
use crate::exit_code::{Failure, Outcome};
use crate::http::{block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

const PATH: &str = "/certificateAuthorities";
const ISSUED: &str = "/issuedCertificates";

const COLUMNS: [(&str, &str); 4] = [
    ("NAME", "/name"),
    ("SUBJECT", "/subjectName"),
    ("KEY", "/key"),
    ("ENDS", "/notAfterUtc"),
];
const POLICY_COLUMNS: [(&str, &str); 4] = [
    ("POLICY", "/name"),
    ("DAYS", "/validityDays"),
    ("KEYS", "/keyTypes"),
    ("NAMES", "/names"),
];
const ISSUED_COLUMNS: [(&str, &str); 5] = [
    ("SERIAL NUMBER", "/serialNumber"),
    ("CA", "/certificateAuthorityName"),
    ("POLICY", "/certificatePolicyName"),
    ("ENDS", "/notAfterUtc"),
    ("STATUS", "/status"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an issuing CA, which is a verified CA of the hub from then on; the hub makes its key, unless one is given
    Create {
        #[command(flatten)]
        ca: Ca,
        /// The common name of the certificate that the hub makes; default: the CA's name
        #[arg(long, value_name = "NAME")]
        common_name: Option<String>,
        /// How long the certificate that the hub makes is valid
        #[arg(long, value_name = "DAYS")]
        days: Option<u64>,
        /// A CA that exists: its certificate and those above it, PEM, and --key or --signer
        #[arg(long, value_name = "FILE", conflicts_with_all = ["common_name", "days"])]
        chain: Option<PathBuf>,
        /// Its key, PKCS#8 in PEM
        #[arg(long, value_name = "FILE", requires = "chain")]
        key: Option<PathBuf>,
        /// Where a signer listens that has its key (docs/provisioning.md)
        #[arg(long, value_name = "URL", requires = "chain", conflicts_with = "key")]
        signer: Option<String>,
        /// A file with the bearer token for the signer
        #[arg(long, value_name = "FILE", requires = "signer")]
        signer_token_file: Option<PathBuf>,
        /// How long devices' certificates are valid, by the policy "default"
        #[arg(long, default_value_t = 90, value_name = "DAYS")]
        policy_days: u64,
    },
    /// List the issuing CAs
    List {
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Show one, with its policies
    Show(Ca),
    /// Print its certificate and those above it, PEM
    Export {
        #[command(flatten)]
        ca: Ca,
        /// In place of the standard output
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Remove an issuing CA and its key; what it has issued stays valid until `holdfast ca remove`
    Delete(Ca),
    /// Manage what it issues
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Issue a certificate by hand, for a request or with a new key; it is revoked by its serial number
    Issue {
        #[command(flatten)]
        ca: Ca,
        /// A request, PEM or DER
        #[arg(long, value_name = "FILE", required_unless_present = "device_id")]
        csr: Option<PathBuf>,
        /// In its place: make a key for this device
        #[arg(long, value_name = "DEVICE", conflicts_with = "csr", requires = "key_out")]
        device_id: Option<String>,
        /// Where the new key goes; must not exist
        #[arg(long, value_name = "FILE")]
        key_out: Option<PathBuf>,
        /// Where the chain goes, the device's certificate first; default: the standard output
        #[arg(long, value_name = "FILE")]
        cert_out: Option<PathBuf>,
        /// The policy
        #[arg(long, default_value = "default")]
        policy: String,
    },
    /// List the certificates that a device was issued
    Issued {
        #[arg(value_name = "DEVICE")]
        device_id: String,
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Revoke one certificate of a device, or all; its connections are closed within a second
    Revoke {
        #[arg(value_name = "DEVICE")]
        device_id: String,
        /// One of `holdfast provisioning ca issued`; without it, all
        #[arg(value_name = "SERIAL", required_unless_present = "all")]
        serial: Option<String>,
        /// Everything that the device was issued so far
        #[arg(long, conflicts_with = "serial")]
        all: bool,
        /// As of `holdfast ca revoke`
        #[arg(long, default_value = "unspecified")]
        reason: String,
        #[command(flatten)]
        login: LoginArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List those of a CA
    List(Ca),
    /// Create one, or replace it
    #[command(visible_alias = "create")]
    Set {
        #[command(flatten)]
        ca: Ca,
        #[arg(value_name = "POLICY")]
        policy: String,
        /// How long certificates are valid
        #[arg(long, default_value_t = 90)]
        days: u64,
        /// ecdsa-p256, ecdsa-p384, rsa; default: all
        #[arg(long, value_delimiter = ',', value_name = "KIND")]
        key_types: Vec<String>,
        /// Device ids that it issues for, `*` stands for any text; default: all
        #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
        names: Vec<String>,
    },
    /// Delete one; what it has issued stays
    Delete {
        #[command(flatten)]
        ca: Ca,
        #[arg(value_name = "POLICY")]
        policy: String,
    },
}

#[derive(Debug, Args)]
pub struct Ca {
    /// Letters, digits and . - _
    #[arg(value_name = "CA")]
    name: String,
    /// How to show the result
    #[arg(short, long, default_value = "json")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

impl Ca {
    fn path(&self) -> String {
        format!("{PATH}/{}", encode(&self.name))
    }

    fn call(&self, method: Method, path: String, body: Option<Value>) -> Result<Value, Failure> {
        block_on(call(&self.login.provisioning()?, request(method, path, body)))
    }

    fn show(&self, found: &Value) -> Result<(), Failure> {
        output::show(found, self.output, &COLUMNS)
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Create { ca, .. } => {
            let body = creation(command)?;
            ca.show(&ca.call(Method::PUT, ca.path(), Some(body))?)
        }
        Command::List { output, login } => {
            let all = block_on(call(
                &login.provisioning()?,
                request(Method::GET, PATH.to_owned(), None),
            ))?;
            output::show(&all, *output, &COLUMNS)
        }
        Command::Show(ca) => ca.show(&ca.call(Method::GET, ca.path(), None)?),
        Command::Export { ca, file } => {
            let found = ca.call(Method::GET, ca.path(), None)?;
            put(file.as_deref(), &pem(&found["certificateChain"])?)
        }
        Command::Delete(ca) => ca.call(Method::DELETE, ca.path(), None).map(|_| ()),
        Command::Policy { command } => policy(command),
        Command::Issue {
            ca,
            csr,
            device_id,
            key_out,
            cert_out,
            policy,
        } => {
            let csr = match (csr, device_id, key_out) {
                (Some(csr), _, _) => STANDARD.encode(read_csr(csr)?),
                (None, Some(device_id), Some(key_out)) => new_key(device_id, key_out)?,
                _ => return Err(Failure::usage("--csr, or --device-id and --key-out")),
            };
            let body = json!({"csr": csr, "certificatePolicyName": policy});
            let issued = ca.call(Method::POST, format!("{}/issue", ca.path()), Some(body))?;
            put(cert_out.as_deref(), &pem(&issued["issuedCertificateChain"])?)
        }
        Command::Issued {
            device_id,
            output,
            login,
        } => {
            let path = format!("{ISSUED}/{}", encode(device_id));
            let all = block_on(call(&login.provisioning()?, request(Method::GET, path, None)))?;
            output::show(&all, *output, &ISSUED_COLUMNS)
        }
        Command::Revoke {
            device_id,
            serial,
            reason,
            login,
            all: _,
        } => {
            let path = match serial {
                Some(serial) => format!("{ISSUED}/{}/{}", encode(device_id), encode(serial)),
                None => format!("{ISSUED}/{}", encode(device_id)),
            };
            let body = Some(json!({"reason": reason}));
            block_on(call(&login.provisioning()?, request(Method::DELETE, path, body))).map(|_| ())
        }
    }
}

/// The body that creates a CA.
fn creation(command: &Command) -> Result<Value, Failure> {
    let Command::Create {
        common_name,
        days,
        chain,
        key,
        signer,
        signer_token_file,
        policy_days,
        ..
    } = command
    else {
        return Ok(Value::Null);
    };
    let mut body = json!({"policies": [{"name": "default", "validityDays": policy_days}]});
    if let Some(name) = common_name {
        body["commonName"] = json!(name);
    }
    if let Some(days) = days {
        body["validityDays"] = json!(days);
    }
    let Some(chain) = chain else {
        return Ok(body);
    };
    let ders = CertificateDer::pem_slice_iter(&read(chain)?)
        .map(|der| der.map(|der| STANDARD.encode(der)))
        .collect::<Result<Vec<_>, _>>();
    let ders = ders.map_err(|error| Failure::usage(format!("{}: {error}", chain.display())))?;
    body["certificateChain"] = json!(ders);
    match (key, signer) {
        (Some(key), None) => {
            let der = PrivatePkcs8KeyDer::from_pem_slice(&read(key)?);
            let der = der.map_err(|error| Failure::usage(format!("{}: {error}; PKCS#8 in PEM", key.display())))?;
            body["privateKey"] = json!(STANDARD.encode(der.secret_pkcs8_der()));
        }
        (None, Some(url)) => {
            body["externalSigner"] = json!({"url": url});
            if let Some(file) = signer_token_file {
                let token = String::from_utf8_lossy(&read(file)?).trim().to_owned();
                body["externalSigner"]["token"] = json!(token);
            }
        }
        _ => return Err(Failure::usage("--chain needs --key or --signer")),
    }
    Ok(body)
}

fn policy(command: &PolicyCommand) -> Result<(), Failure> {
    let of = |ca: &Ca, policy: &str| format!("{}/certificatePolicies/{}", ca.path(), encode(policy));
    match command {
        PolicyCommand::List(ca) => {
            let found = ca.call(Method::GET, ca.path(), None)?;
            output::show(&found["policies"], ca.output, &POLICY_COLUMNS)
        }
        PolicyCommand::Set {
            ca,
            policy,
            days,
            key_types,
            names,
        } => {
            let body = json!({"validityDays": days, "keyTypes": key_types, "names": names});
            let stored = ca.call(Method::PUT, of(ca, policy), Some(body))?;
            output::show(&stored["policies"], ca.output, &POLICY_COLUMNS)
        }
        PolicyCommand::Delete { ca, policy } => ca.call(Method::DELETE, of(ca, policy), None).map(|_| ()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The DER form of a request.
fn read_csr(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read(path)?;
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(bytes);
    }
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(&bytes);
    let der = der.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(der.to_vec())
}

/// Makes a key on P-256 in a new file, and the request for it.
fn new_key(device_id: &str, key_out: &Path) -> Result<String, Failure> {
    let failed = |error: rcgen::Error| Failure::new(Outcome::Failed, error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device_id);
    let csr = params.serialize_request(&key).map_err(failed)?;
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(key_out);
    let written = opened.and_then(|mut file| file.write_all(key.serialize_pem().as_bytes()));
    written.map_err(|error| Failure::usage(format!("{}: {error}", key_out.display())))?;
    Ok(STANDARD.encode(csr.der()))
}

/// Certificates of an answer as PEM.
fn pem(chain: &Value) -> Result<String, Failure> {
    let mut text = String::new();
    for certificate in chain.as_array().into_iter().flatten() {
        let der = certificate.as_str().and_then(|text| STANDARD.decode(text).ok());
        let der = der.ok_or_else(|| Failure::new(Outcome::Failed, "the answer has no certificates"))?;
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(text)
}

fn put(file: Option<&Path>, text: &str) -> Result<(), Failure> {
    match file {
        Some(path) => {
            std::fs::write(path, text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        }
        None => crate::print(text),
    }
}
