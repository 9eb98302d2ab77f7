//! Which hub a command talks to, and with which credentials.
//!
//! In the habits of `az iot hub`: `--login` with a policy's connection string; without it, the connection file that a
//! running hub leaves in its directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use holdfast_auth::{ConnectionString, EventHubsConnection, IotConnection, Secret, sign};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::exit_code::{Failure, Outcome};
use holdfast_client::connection_file::{ConnectionFile, NodeFacts, Ports, Provisioning, hub_name};

/// How long a token that a command makes for itself is good for.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// Options that every command for a running hub takes.
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// Connection string of a policy, instead of the connection file
    #[arg(
        long,
        short = 'l',
        value_name = "CONNECTION_STRING",
        env = "HOLDFAST_LOGIN",
        hide_env_values = true
    )]
    login: Option<String>,
    /// A file with a bearer token of the hub's issuer, instead of a policy's key
    #[arg(long, value_name = "FILE", env = "HOLDFAST_TOKEN_FILE", conflicts_with = "login")]
    token_file: Option<PathBuf>,
    /// The hub's host name, with --token-file; default: the connection file's
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        env = "HOLDFAST_HUB",
        requires = "token_file",
        conflicts_with = "login"
    )]
    hub: Option<String>,
    /// The connection file of a running hub
    #[arg(
        long,
        value_name = "FILE",
        env = "HOLDFAST_CONNECTION_FILE",
        default_value = "data/connection.json"
    )]
    connection_file: PathBuf,
    /// The CA that has issued the hub's certificate; default: the connection file's, else the system's
    #[arg(long, value_name = "FILE", env = "HOLDFAST_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// A hub and the credentials for it.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) host: String,
    pub(crate) ports: Ports,
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether the connection file was used: the hub runs on this machine, whatever its name resolves to.
    pub(crate) is_local: bool,
    /// Where the nodes of a hub on this machine listen.
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) login: IotConnection,
    events: Option<EventHubsConnection>,
    /// In place of the login: a certificate of a device.
    pub(crate) certificate: Option<Arc<ClientIdentity>>,
}

/// A certificate that a client shows.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    /// Its own first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl LoginArgs {
    /// By the connection file of a hub on this machine.
    #[must_use]
    pub fn of_file(connection_file: PathBuf) -> Self {
        Self {
            login: None,
            token_file: None,
            hub: None,
            connection_file,
            ca_file: None,
        }
    }

    /// With the bearer token in `file`, which is read anew for each call, instead of the connection file's policy.
    #[must_use]
    pub fn with_token_file(self, file: Option<PathBuf>) -> Self {
        Self {
            token_file: file,
            ..self
        }
    }

    /// Finds the hub.
    ///
    /// # Errors
    /// Says which ways there are to name one.
    pub(crate) fn hub(&self) -> Result<Hub, Failure> {
        if let Some(host) = &self.hub {
            let bearer = self.bearer()?.unwrap_or_default();
            return Ok(self.distant(host, by_bearer(host, &bearer), None));
        }
        match &self.login {
            Some(text) => {
                let (host, login, events) = match parse(text)? {
                    ConnectionString::Iot(login) => (login.host_name.clone(), login, None),
                    ConnectionString::EventHubs(events) => (events.host.clone(), as_policy(&events)?, Some(events)),
                };
                Ok(self.distant(&host, login, events))
            }
            None => self.local_hub(),
        }
    }

    /// A hub that is known by its name, with the standard ports.
    fn distant(&self, host: &str, login: IotConnection, events: Option<EventHubsConnection>) -> Hub {
        let (host, https) = split_port(host);
        let ports = Ports {
            mqtt: Some(8883),
            amqp: Some(5671),
            https: Some(https),
            ..Ports::default()
        };
        Hub {
            host,
            ports,
            ca_file: self.ca_file.clone(),
            is_local: false,
            nodes: Vec::new(),
            login,
            events,
            certificate: None,
        }
    }

    /// The bearer token, as credentials are sent.
    fn bearer(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        let token = text.trim();
        if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Failure::usage(format!("{} holds no bearer token", file.display())));
        }
        Ok(Some(format!("Bearer {token}")))
    }

    /// The provisioning service: by the policy of `--login`, else by the connection file.
    ///
    /// # Errors
    /// As [`Self::hub`], and when the hub has no provisioning service.
    pub(crate) fn provisioning(&self) -> Result<Hub, Failure> {
        let hub = self.hub()?;
        if self.login.is_some() {
            return Ok(hub);
        }
        let facts = self.provisioning_facts()?;
        let text = facts.service.ok_or_else(no_provisioning)?;
        let ConnectionString::Iot(login) = parse(&text)? else {
            return Err(no_provisioning());
        };
        Ok(Hub { login, ..hub })
    }

    /// What the connection file says about the provisioning service.
    ///
    /// # Errors
    /// There is no connection file, or no provisioning service.
    pub(crate) fn provisioning_facts(&self) -> Result<Provisioning, Failure> {
        let file = ConnectionFile::read(&self.connection_file)
            .map_err(|error| Failure::new(Outcome::Unreachable, format!("{error:#}")))?;
        match file.provisioning.id_scope {
            Some(_) => Ok(file.provisioning),
            None => Err(no_provisioning()),
        }
    }

    fn local_hub(&self) -> Result<Hub, Failure> {
        let file = ConnectionFile::read(&self.connection_file).map_err(|error| {
            Failure::new(Outcome::Unreachable, format!("{error:#}")).advise(
                "start a hub with `holdfast dev`, or name one: --login CONNECTION_STRING or --connection-file FILE",
            )
        })?;
        let ConnectionString::Iot(login) = parse(&file.owner)? else {
            return Err(Failure::usage(
                "the connection file's owner is no policy's connection string",
            ));
        };
        let ConnectionString::EventHubs(events) = parse(&file.event_hub)? else {
            return Err(Failure::usage(
                "the connection file's eventHub is no Event Hubs connection string",
            ));
        };
        let (login, events) = match self.bearer()? {
            Some(bearer) => (by_bearer(&file.host_name, &bearer), None),
            None => (login, Some(events)),
        };
        let ca_file = self.ca_file.clone().or(file.ca_file);
        Ok(Hub {
            host: file.host_name,
            ports: file.ports,
            ca_file,
            is_local: true,
            nodes: file.nodes,
            login,
            events,
            certificate: None,
        })
    }
}

impl Hub {
    /// The same hub for a device, with a token of its own.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        self.as_device(by_bearer(&self.host, token), None)
    }

    /// The same hub for a device, with a certificate of its own.
    pub(crate) fn with_certificate(&self, certificate: Arc<ClientIdentity>) -> Self {
        self.as_device(by_bearer(&self.host, ""), Some(certificate))
    }

    /// The same hub for a device that has yet to prove itself.
    pub(crate) fn without_credential(&self) -> Self {
        self.as_device(by_bearer(&self.host, ""), None)
    }

    fn as_device(&self, login: IotConnection, certificate: Option<Arc<ClientIdentity>>) -> Self {
        Self {
            host: self.host.clone(),
            ports: self.ports.clone(),
            ca_file: self.ca_file.clone(),
            is_local: self.is_local,
            nodes: self.nodes.clone(),
            login,
            events: None,
            certificate,
        }
    }

    /// Where each node listens for what the hub's `port` is for.
    pub(crate) fn node_addresses(&self, port: u16) -> Vec<SocketAddr> {
        let kinds: [fn(&Ports) -> Option<u16>; 3] = [|p| p.https, |p| p.amqp, |p| p.mqtt];
        let kind = kinds.into_iter().find(|kind| kind(&self.ports) == Some(port));
        let address = |node: &NodeFacts| {
            let port = kind.map_or(Some(port), |kind| kind(&node.ports))?;
            Some(SocketAddr::new(node.address.parse().ok()?, port))
        };
        self.nodes.iter().filter_map(address).collect()
    }

    /// The `Authorization` value of a request; `None` for a device without a token.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub(crate) fn authorization(&self) -> Result<Option<String>, Failure> {
        Ok(Some(self.token()?).filter(|token| !token.is_empty()))
    }

    /// An `Authorization` value for the whole hub.
    ///
    /// # Errors
    /// When the login is a device's, or holds no key.
    pub(crate) fn token(&self) -> Result<String, Failure> {
        if let Some(token) = &self.login.token {
            return Ok(token.reveal().to_owned());
        }
        match (&self.login.policy, &self.login.key) {
            (Some(policy), Some(key)) => Ok(sign(&self.host, key.as_bytes(), Some(policy), expiry(TOKEN_LIFETIME))),
            _ => Err(Failure::new(Outcome::Unauthorized, "the login is not a policy's connection string").advise(
                "use one with SharedAccessKeyName, such as iothubowner's or registryReadWrite's; a device's own only \
                 lets the device in",
            )),
        }
    }

    /// The credentials for reading events.
    ///
    /// # Errors
    /// When the login is a device's.
    pub(crate) fn events(&self) -> Result<EventHubsConnection, Failure> {
        if let Some(token) = &self.login.token {
            return Ok(EventHubsConnection {
                host: self.host.clone(),
                port: None,
                policy: None,
                key: None,
                token: Some(token.clone()),
                entity_path: Some(hub_name(&self.host)),
                emulator: false,
            });
        }
        match (&self.events, &self.login.policy, &self.login.key) {
            (Some(events), ..) => Ok(events.clone()),
            (None, Some(policy), Some(key)) => Ok(EventHubsConnection::policy(
                &self.host,
                policy,
                key,
                &hub_name(&self.host),
            )),
            _ => Err(Failure::new(
                Outcome::Unauthorized,
                "reading events needs a policy's connection string",
            )
            .advise("use service's or iothubowner's, or the Event-Hubs-compatible one")),
        }
    }
}

fn no_provisioning() -> Failure {
    Failure::new(Outcome::NotFound, "the hub has no provisioning service")
        .advise("switch it on with provisioning.enabled, or name a policy of one with --login")
}

/// Seconds since 1970, `lifetime` from now.
pub(crate) fn expiry(lifetime: Duration) -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(lifetime)
        .as_secs()
}

/// A login without a policy.
fn by_bearer(host: &str, bearer: &str) -> IotConnection {
    IotConnection {
        host_name: host.to_owned(),
        gateway_host_name: None,
        device: None,
        module: None,
        policy: None,
        key: None,
        token: Some(Secret::new(bearer)),
        x509: false,
    }
}

fn parse(text: &str) -> Result<ConnectionString, Failure> {
    ConnectionString::parse(text).map_err(|error| {
        Failure::usage(error).advise(
            "it looks like HostName=…;SharedAccessKeyName=iothubowner;SharedAccessKey=…; mind the quotes in a shell",
        )
    })
}

/// The Event-Hubs-compatible string of a policy opens the REST API as well, since both name the same policy.
fn as_policy(events: &EventHubsConnection) -> Result<IotConnection, Failure> {
    let mut login = String::from("HostName=");
    login.push_str(&events.host);
    if let Some(policy) = &events.policy {
        login.push_str(&format!(";SharedAccessKeyName={policy}"));
    }
    if let Some(key) = &events.key {
        login.push_str(&format!(";SharedAccessKey={}", key.reveal()));
    }
    match parse(&login)? {
        ConnectionString::Iot(login) => Ok(login),
        ConnectionString::EventHubs(_) => Err(Failure::usage("the login is no policy's connection string")),
    }
}

fn split_port(host: &str) -> (String, u16) {
    match host.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host.to_owned(), port),
        _ => (host.to_owned(), 443),
    }
}
