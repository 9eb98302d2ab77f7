//! `holdfast provisioning …`: enrollments and registrations, in the habits of `az iot dps`.

mod ca;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use holdfast_auth::Key;
use http::{HeaderName, Method};
use serde_json::{Value, json};

use crate::device::encode;
use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, block_on, call, exchange};
use crate::hub::{Hub, LoginArgs};
use crate::output::{self, Format};

mod linked_hub;

/// The version of the service API that the commands speak (Spec provisioning §9.1).
const API_VERSION: &str = "2021-10-01";

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const PAGE_SIZE: HeaderName = HeaderName::from_static("x-ms-max-item-count");

const ENROLLMENT_COLUMNS: [(&str, &str); 4] = [
    ("REGISTRATION ID", "/registrationId"),
    ("ATTESTATION", "/attestation/type"),
    ("STATUS", "/provisioningStatus"),
    ("DEVICE", "/deviceId"),
];
const GROUP_COLUMNS: [(&str, &str); 3] = [
    ("GROUP", "/enrollmentGroupId"),
    ("ATTESTATION", "/attestation/type"),
    ("STATUS", "/provisioningStatus"),
];
const REGISTRATION_COLUMNS: [(&str, &str); 5] = [
    ("REGISTRATION ID", "/registrationId"),
    ("STATUS", "/status"),
    ("DEVICE", "/deviceId"),
    ("HUB", "/assignedHub"),
    ("UPDATED", "/lastUpdatedDateTimeUtc"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the id scope, and the host that devices register at
    Show {
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Manage the enrollments of single devices
    Enrollment {
        #[command(subcommand)]
        command: EnrollmentCommand,
    },
    /// Manage the enrollments of fleets
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Issue certificates to devices: CAs, policies, revocation
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Look at registrations of devices
    Registration {
        #[command(subcommand)]
        command: RegistrationCommand,
    },
    /// Link other hubs, to which devices are assigned as well
    #[command(visible_alias = "linked-hub")]
    Hub {
        #[command(subcommand)]
        command: linked_hub::HubCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum EnrollmentCommand {
    /// List all
    List(Listing),
    /// Show one, with the registration of its device
    Show {
        #[command(flatten)]
        one: One,
        /// With its keys
        #[arg(long, visible_alias = "keys")]
        show_keys: bool,
    },
    /// Create one; without a certificate it has symmetric keys, which the service makes unless they are given
    Create {
        #[command(flatten)]
        one: One,
        /// The device's id at the hub, unless it is the registration id
        #[arg(long, value_name = "DEVICE")]
        device_id: Option<String>,
        /// The device's own certificate, PEM
        #[arg(long, visible_alias = "cp", value_name = "FILE", conflicts_with_all = ["primary_key", "secondary_key"])]
        certificate_path: Option<PathBuf>,
        /// Its next certificate
        #[arg(long, visible_alias = "scp", value_name = "FILE", requires = "certificate_path")]
        secondary_certificate_path: Option<PathBuf>,
        #[command(flatten)]
        content: Content,
    },
    /// Change one; what is not named stays
    Update {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        content: Content,
    },
    /// Delete one; its device stays at the hub
    Delete(One),
}

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List all
    List(Listing),
    /// Show one
    Show {
        #[command(flatten)]
        one: One,
        /// With its keys
        #[arg(long, visible_alias = "keys")]
        show_keys: bool,
    },
    /// Create one; without a CA it has symmetric keys, which the service makes unless they are given
    Create {
        #[command(flatten)]
        one: One,
        /// A CA of the hub (`holdfast ca list`), verified
        #[arg(long, visible_aliases = ["ca-name", "cn"], value_name = "NAME", conflicts_with_all = ["primary_key", "secondary_key", "certificate_path"])]
        ca: Option<String>,
        /// The certificate of a CA that chains to a verified one, PEM
        #[arg(long, visible_alias = "cp", value_name = "FILE", conflicts_with_all = ["primary_key", "secondary_key"])]
        certificate_path: Option<PathBuf>,
        #[command(flatten)]
        content: Content,
    },
    /// Change one; what is not named stays
    Update {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        content: Content,
    },
    /// Delete one; its devices stay at the hub
    Delete(One),
    /// Print the key of one device of a group by symmetric key
    #[command(visible_alias = "compute-device-key")]
    DeriveKey {
        #[command(flatten)]
        one: One,
        /// The device, as it is going to call itself
        #[arg(value_name = "REGISTRATION_ID")]
        registration_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum RegistrationCommand {
    /// List those of a group
    List {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
        #[command(flatten)]
        list: Listing,
    },
    /// Show one
    Show(One),
    /// Say why a device can or cannot register: its enrollment, the last refusals, the webhook, hubs, and earlier operations
    Diagnose(One),
    /// Delete one; its device stays at the hub, and may register again
    Delete(One),
}

#[derive(Debug, Subcommand)]
pub enum DiagnoseCommand {
    /// A device that registers: its enrollment, the last refusals, the webhook, hubs, and earlier operations
    Registration(One),
}

#[derive(Debug, Args)]
pub struct Listing {
    /// How to show them
    #[arg(short, long, default_value = "table")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub struct One {
    /// Letters, digits and - . _ :
    #[arg(value_name = "ID")]
    id: String,
    /// How to show the result
    #[arg(short, long, default_value = "json")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What individual enrollments and groups have in common.
#[derive(Debug, Args)]
pub struct Content {
    /// The primary key, in base64
    #[arg(long, visible_alias = "pk", value_name = "KEY")]
    primary_key: Option<String>,
    /// The secondary key, in base64
    #[arg(long, visible_alias = "sk", value_name = "KEY")]
    secondary_key: Option<String>,
    /// Whether devices are let in
    #[arg(long, visible_alias = "ps", value_name = "STATUS")]
    provisioning_status: Option<Status>,
    /// Whether devices are edge devices
    #[arg(long, visible_alias = "ee", value_name = "BOOL")]
    edge_enabled: Option<bool>,
    /// Tags of new devices, a JSON object
    #[arg(long, visible_alias = "tags", value_name = "JSON")]
    initial_twin_tags: Option<String>,
    /// Desired properties of new devices, a JSON object
    #[arg(long, visible_alias = "props", value_name = "JSON")]
    initial_twin_properties: Option<String>,
    /// What a repeated registration does
    #[arg(long, visible_alias = "rp", value_name = "POLICY")]
    reprovision_policy: Option<Reprovision>,
    /// The issuing CA that gives its devices certificates (`holdfast provisioning ca list`)
    #[arg(long, visible_alias = "can", value_name = "CA")]
    certificate_authority: Option<String>,
    /// The policy of that CA; default: "default"
    #[arg(
        long,
        visible_alias = "cpn",
        value_name = "POLICY",
        requires = "certificate_authority"
    )]
    certificate_policy: Option<String>,
    /// The hubs to choose from
    #[arg(long, visible_alias = "hubs", value_delimiter = ',', value_name = "HOST")]
    iot_hubs: Vec<String>,
    /// How the hub is chosen
    #[arg(long, visible_alias = "ap", value_name = "POLICY")]
    allocation_policy: Option<Allocation>,
    /// The webhook that chooses the hub, with the policy custom
    #[arg(long, visible_alias = "wh", value_name = "URL")]
    webhook_url: Option<String>,
    /// The form of the webhook's request
    #[arg(
        long,
        visible_alias = "av",
        value_name = "VERSION",
        default_value = "2021-10-01",
        requires = "webhook_url"
    )]
    api_version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allocation {
    /// By the hash of the registration id, in proportion to the hubs' weights
    Hashed,
    /// The hub that is nearest to the node that the device has reached
    #[value(alias = "geoLatency", alias = "geolatency")]
    GeoLatency,
    /// The one hub of --iot-hubs
    Static,
    /// The hub that a webhook names
    Custom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reprovision {
    /// Choose the hub anew, and keep the device's data
    Reprovisionandmigratedata,
    /// Choose the hub anew, and let the device begin anew
    Reprovisionandresetdata,
    /// Keep the hub
    Never,
}

impl Content {
    /// Puts what is named into a document.
    fn apply(&self, document: &mut Value) -> Result<(), Failure> {
        for (name, key) in [("primaryKey", &self.primary_key), ("secondaryKey", &self.secondary_key)] {
            if let Some(key) = key {
                document["attestation"]["symmetricKey"][name] = json!(key);
            }
        }
        if let Some(status) = self.provisioning_status {
            document["provisioningStatus"] = json!(match status {
                Status::Enabled => "enabled",
                Status::Disabled => "disabled",
            });
        }
        if let Some(edge) = self.edge_enabled {
            document["capabilities"]["iotEdge"] = json!(edge);
        }
        if let Some(tags) = &self.initial_twin_tags {
            document["initialTwin"]["tags"] = parsed("--initial-twin-tags", tags)?;
        }
        if let Some(desired) = &self.initial_twin_properties {
            document["initialTwin"]["properties"]["desired"] = parsed("--initial-twin-properties", desired)?;
        }
        if let Some(policy) = self.reprovision_policy {
            document["reprovisionPolicy"] = json!({
                "updateHubAssignment": policy != Reprovision::Never,
                "migrateDeviceData": policy == Reprovision::Reprovisionandmigratedata,
            });
        }
        if let Some(ca) = &self.certificate_authority {
            document["certificateAuthorityName"] = json!(ca);
            document["certificatePolicyName"] = json!(self.certificate_policy.as_deref().unwrap_or("default"));
        }
        if !self.iot_hubs.is_empty() {
            document["iotHubs"] = json!(self.iot_hubs);
        }
        if let Some(policy) = self.allocation_policy {
            document["allocationPolicy"] = json!(match policy {
                Allocation::Hashed => "hashed",
                Allocation::GeoLatency => "geoLatency",
                Allocation::Static => "static",
                Allocation::Custom => "custom",
            });
        }
        if let Some(url) = &self.webhook_url {
            document["customAllocationDefinition"] = json!({"webhookUrl": url, "apiVersion": self.api_version});
        }
        Ok(())
    }
}

fn parsed(option: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("{option} is no JSON: {error}")))
}

fn certificate(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(json!({"certificate": text}))
}

/// The two collections of enrollments.
#[derive(Clone, Copy)]
struct Collection {
    path: &'static str,
    id: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const ENROLLMENTS: Collection = Collection {
    path: "/enrollments",
    id: "registrationId",
    columns: &ENROLLMENT_COLUMNS,
};
const GROUPS: Collection = Collection {
    path: "/enrollmentGroups",
    id: "enrollmentGroupId",
    columns: &GROUP_COLUMNS,
};

impl Collection {
    fn list(self, list: &Listing) -> Result<(), Failure> {
        pages(list, &format!("{}/query", self.path), self.columns)
    }

    fn show(self, one: &One, keys: bool) -> Result<(), Failure> {
        let hub = one.login.provisioning()?;
        let mut found = block_on(call(&hub, request(Method::GET, self.of(&one.id), None)))?;
        if keys {
            found["attestation"] = block_on(call(&hub, self.mechanism(&one.id)))?;
        }
        output::show(&found, one.output, self.columns)
    }

    fn mechanism(self, id: &str) -> Call<'static> {
        request(Method::POST, format!("{}/attestationmechanism", self.of(id)), None)
    }

    fn create(self, one: &One, attestation: Value, content: &Content, device_id: Option<&str>) -> Result<(), Failure> {
        let mut document = json!({self.id: one.id, "attestation": attestation});
        if let Some(device_id) = device_id {
            document["deviceId"] = json!(device_id);
        }
        content.apply(&mut document)?;
        let hub = one.login.provisioning()?;
        let mut stored = block_on(call(&hub, request(Method::PUT, self.of(&one.id), Some(document))))?;
        hide_keys(&mut stored);
        output::show(&stored, one.output, self.columns)
    }

    /// The stored document, changed; it must not have changed meanwhile.
    fn update(self, one: &One, content: &Content) -> Result<(), Failure> {
        let hub = one.login.provisioning()?;
        let mut document = block_on(call(&hub, request(Method::GET, self.of(&one.id), None)))?;
        content.apply(&mut document)?;
        let etag = document["etag"].as_str().unwrap_or("*").trim_matches('"').to_owned();
        let mut put = request(Method::PUT, self.of(&one.id), Some(document));
        put.if_match = Some(&etag);
        let mut stored = block_on(call(&hub, put))?;
        hide_keys(&mut stored);
        output::show(&stored, one.output, self.columns)
    }

    fn delete(self, one: &One) -> Result<(), Failure> {
        let hub = one.login.provisioning()?;
        block_on(call(&hub, request(Method::DELETE, self.of(&one.id), None))).map(|_| ())
    }

    fn of(self, id: &str) -> String {
        format!("{}/{}", self.path, encode(id))
    }
}

/// The service shows the keys to their writer; a command does with `--show-keys` alone.
fn hide_keys(document: &mut Value) {
    if let Some(attestation) = document["attestation"].as_object_mut() {
        attestation.remove("symmetricKey");
    }
}

fn request(method: Method, path: String, body: Option<Value>) -> Call<'static> {
    Call {
        version: API_VERSION,
        body,
        ..Call::new(method, path)
    }
}

/// Reads all pages and shows them together.
fn pages(list: &Listing, path: &str, columns: &[(&str, &str)]) -> Result<(), Failure> {
    let hub = list.login.provisioning()?;
    let mut all = Vec::new();
    let mut continuation: Option<String> = None;
    loop {
        let mut call = request(Method::POST, path.to_owned(), Some(json!({"query": "SELECT *"})));
        call.headers.push((PAGE_SIZE, "1000".to_owned()));
        call.headers
            .extend(continuation.take().map(|token| (CONTINUATION, token)));
        let answer = block_on(exchange(&hub, call))?;
        if let Ok(Value::Array(page)) = serde_json::from_slice(&answer.body) {
            all.extend(page);
        }
        let next = answer.headers.get(CONTINUATION).and_then(|value| value.to_str().ok());
        continuation = next.map(str::to_owned);
        if continuation.is_none() {
            return output::show(&Value::Array(all), list.output, columns);
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Show { login } => show(login),
        Command::Enrollment { command } => enrollment(command),
        Command::Group { command } => group(command),
        Command::Ca { command } => ca::run(command),
        Command::Registration { command } => registration(command),
        Command::Hub { command } => linked_hub::run(command),
    }
}

fn show(login: &LoginArgs) -> Result<(), Failure> {
    let facts = login.provisioning_facts()?;
    let shown = json!({
        "idScope": facts.id_scope,
        "deviceProvisioningHostName": facts.endpoint,
        "serviceOperationsHostName": facts.endpoint,
    });
    output::show(&shown, Format::Json, &[])
}

fn enrollment(command: &EnrollmentCommand) -> Result<(), Failure> {
    match command {
        EnrollmentCommand::List(list) => ENROLLMENTS.list(list),
        EnrollmentCommand::Show { one, show_keys } => ENROLLMENTS.show(one, *show_keys),
        EnrollmentCommand::Create {
            one,
            device_id,
            certificate_path,
            secondary_certificate_path,
            content,
        } => {
            let attestation = match certificate_path {
                Some(path) => {
                    let mut certificates = json!({"primary": certificate(path)?});
                    if let Some(path) = secondary_certificate_path {
                        certificates["secondary"] = certificate(path)?;
                    }
                    json!({"type": "x509", "x509": {"clientCertificates": certificates}})
                }
                None => json!({"type": "symmetricKey"}),
            };
            ENROLLMENTS.create(one, attestation, content, device_id.as_deref())
        }
        EnrollmentCommand::Update { one, content } => ENROLLMENTS.update(one, content),
        EnrollmentCommand::Delete(one) => ENROLLMENTS.delete(one),
    }
}

fn group(command: &GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::List(list) => GROUPS.list(list),
        GroupCommand::Show { one, show_keys } => GROUPS.show(one, *show_keys),
        GroupCommand::Create {
            one,
            ca,
            certificate_path,
            content,
        } => {
            let attestation = match (ca, certificate_path) {
                (Some(name), _) => json!({"type": "x509", "x509": {"caReferences": {"primary": name}}}),
                (None, Some(path)) => {
                    json!({"type": "x509", "x509": {"signingCertificates": {"primary": certificate(path)?}}})
                }
                (None, None) => json!({"type": "symmetricKey"}),
            };
            GROUPS.create(one, attestation, content, None)
        }
        GroupCommand::Update { one, content } => GROUPS.update(one, content),
        GroupCommand::Delete(one) => GROUPS.delete(one),
        GroupCommand::DeriveKey { one, registration_id } => {
            let mechanism = block_on(call(&one.login.provisioning()?, GROUPS.mechanism(&one.id)))?;
            let key = mechanism["symmetricKey"]["primaryKey"].as_str();
            let key = key.ok_or_else(|| Failure::usage(format!("group {} has no symmetric key", one.id)))?;
            let key = Key::from_base64(key).map_err(|error| Failure::new(Outcome::Failed, error.to_string()))?;
            crate::print(&format!("{}\n", *key.derive(registration_id).to_base64()))
        }
    }
}

pub(crate) fn run_diagnosis(command: &DiagnoseCommand) -> Result<(), Failure> {
    match command {
        DiagnoseCommand::Registration(one) => diagnose(&one.id, &one.login, one.output),
    }
}

/// Why a device can or cannot register.
fn diagnose(id: &str, login: &LoginArgs, format: Format) -> Result<(), Failure> {
    let path = format!("/registrations/{}/diagnosis", encode(id));
    let found = block_on(call(&login.provisioning()?, request(Method::GET, path, None)))?;
    output::show(
        &found,
        format,
        &[("REGISTRATION ID", "/registrationId"), ("CONCLUSION", "/conclusion")],
    )
}

fn registration(command: &RegistrationCommand) -> Result<(), Failure> {
    let of = |id: &str| format!("/registrations/{}", encode(id));
    match command {
        RegistrationCommand::List { group, list } => {
            pages(list, &format!("{}/query", of(group)), &REGISTRATION_COLUMNS)
        }
        RegistrationCommand::Show(one) => {
            let hub: Hub = one.login.provisioning()?;
            let found = block_on(call(&hub, request(Method::GET, of(&one.id), None)))?;
            output::show(&found, one.output, &REGISTRATION_COLUMNS)
        }
        RegistrationCommand::Diagnose(one) => diagnose(&one.id, &one.login, one.output),
        RegistrationCommand::Delete(one) => {
            let hub = one.login.provisioning()?;
            block_on(call(&hub, request(Method::DELETE, of(&one.id), None))).map(|_| ())
        }
    }
}
