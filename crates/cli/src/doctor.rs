//! `holdfast doctor`: why can this device not connect? Runs where the device is and needs no right on the hub.
//!
//! Why: half of the causes are on the way, where no log of the hub sees them: name, firewall, proxy, trust, clock.
//! Invariants: every step ends within its time-out; a step that depends on a failed one is skipped and says so; a
//! credential goes only to a server whose certificate was judged good.
//! Not here: the hub's own view of the device (`holdfast device diagnose`).

mod chain;
mod credential;
mod ports;
mod protocols;
mod report;
mod tls;
mod websocket;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use serde_json::json;

use crate::exit_code::Failure;
use crate::http::block_on;
use chain::Judge;
use credential::{Credential, Given, Proof};
use ports::Service;
use protocols::Dialer;
use report::{Finding, Report, Step};

/// Find out, from here, why a device cannot connect: name, ports, TLS, clock, certificate, protocols, credential
///
/// Needs no right on the hub. Exit code 0 when no step failed (warnings are none), 4 when the hub cannot be reached or
/// does not prove that it is the hub, 5 when it refuses the credential, 1 when only the clock is wrong.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The hub's host name or address; default: the connection string's
    #[arg(value_name = "HOST", required_unless_present = "connection_string")]
    host: Option<String>,
    /// The device's connection string. The attempt takes the place of a connection that the device has now
    #[arg(
        long,
        value_name = "CONNECTION_STRING",
        env = "HOLDFAST_DEVICE_CONNECTION_STRING",
        hide_env_values = true
    )]
    connection_string: Option<String>,
    /// The device's certificate with its intermediates, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The device that the certificate is for
    #[arg(short = 'd', long, value_name = "DEVICE", conflicts_with = "connection_string")]
    device_id: Option<String>,
    /// A module of the device
    #[arg(short = 'm', long, value_name = "MODULE", requires = "device_id")]
    module_id: Option<String>,
    /// The CA that the device trusts, PEM; default: this system's list
    #[arg(long, visible_alias = "ca-file", value_name = "FILE", env = "HOLDFAST_CA_FILE")]
    ca: Option<PathBuf>,
    /// Only this protocol; may be repeated [default: all]
    #[arg(long = "protocol", value_name = "PROTOCOL")]
    protocols: Vec<Protocol>,
    /// The port of MQTT over TLS
    #[arg(long, value_name = "PORT", default_value_t = 8883)]
    mqtt_port: u16,
    /// The port of HTTPS and WebSockets
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    https_port: u16,
    /// The port of AMQP over TLS
    #[arg(long, value_name = "PORT", default_value_t = 5671)]
    amqp_port: u16,
    /// How long each attempt may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    proxies: Proxies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Mqtt,
    MqttWs,
    Https,
    Amqp,
}

/// The variables by which programs find a proxy.
#[derive(Debug, Args)]
struct Proxies {
    #[arg(long, env = "HTTPS_PROXY", hide = true)]
    env_https_proxy: Option<String>,
    #[arg(long, env = "https_proxy", hide = true)]
    env_https_proxy_lower: Option<String>,
    #[arg(long, env = "HTTP_PROXY", hide = true)]
    env_http_proxy: Option<String>,
    #[arg(long, env = "http_proxy", hide = true)]
    env_http_proxy_lower: Option<String>,
    #[arg(long, env = "ALL_PROXY", hide = true)]
    env_all_proxy: Option<String>,
    #[arg(long, env = "all_proxy", hide = true)]
    env_all_proxy_lower: Option<String>,
    #[arg(long, env = "NO_PROXY", hide = true)]
    env_no_proxy: Option<String>,
    #[arg(long, env = "no_proxy", hide = true)]
    env_no_proxy_lower: Option<String>,
}

impl Proxies {
    /// Those that are set, without passwords.
    fn set(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("HTTPS_PROXY", &self.env_https_proxy),
            ("https_proxy", &self.env_https_proxy_lower),
            ("HTTP_PROXY", &self.env_http_proxy),
            ("http_proxy", &self.env_http_proxy_lower),
            ("ALL_PROXY", &self.env_all_proxy),
            ("all_proxy", &self.env_all_proxy_lower),
            ("NO_PROXY", &self.env_no_proxy),
            ("no_proxy", &self.env_no_proxy_lower),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref().filter(|value| !value.is_empty())?)))
            .map(|(name, value)| (name, without_login(value)))
            .collect()
    }
}

/// A proxy's URL without user and password.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}…@{host}"),
        None => url.to_owned(),
    }
}

impl Doctor {
    fn has(&self, protocol: Protocol) -> bool {
        self.protocols.is_empty() || self.protocols.contains(&protocol)
    }

    fn ports(&self) -> Vec<(Service, u16)> {
        let all = [
            (self.has(Protocol::Mqtt), Service::Mqtt, self.mqtt_port),
            (
                self.has(Protocol::MqttWs) || self.has(Protocol::Https),
                Service::Https,
                self.https_port,
            ),
            (self.has(Protocol::Amqp), Service::Amqp, self.amqp_port),
        ];
        all.into_iter()
            .filter(|(is_asked, ..)| *is_asked)
            .map(|(_, service, port)| (service, port))
            .collect()
    }

    fn roots(&self) -> Result<(RootCertStore, String), Failure> {
        let text = match &self.ca {
            Some(file) => format!("the CAs of {}", file.display()),
            None => "the CAs that this system trusts".to_owned(),
        };
        match (holdfast_client::tls::roots(self.ca.as_deref()), &self.ca) {
            (Ok(roots), _) => Ok((roots, text)),
            (Err(error), Some(_)) => Err(Failure::usage(format!("{error:#}"))),
            // A device without a list of CAs trusts none: that is a finding, not a mistake of the command line.
            (Err(_), None) => Ok((RootCertStore::empty(), text)),
        }
    }
}

pub(crate) fn run(args: &Doctor) -> Result<(), Failure> {
    let given = Given {
        connection_string: args.connection_string.as_deref(),
        host: args.host.as_deref(),
        certificate: args.cert.as_deref().zip(args.key.as_deref()),
        device: args.device_id.as_deref(),
        module: args.module_id.as_deref(),
    };
    let credential = Credential::read(&given)?;
    let host = match (&args.host, &credential) {
        (Some(host), _) => host.clone(),
        (None, Some(credential)) => credential.hub.clone(),
        (None, None) => return Err(Failure::usage("which hub? Give HOST or --connection-string")),
    };
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Failure::usage(format!("{host:?} is no host name, without port")))?;
    let (roots, roots_text) = args.roots()?;
    let mut report = Report::new(&host, args.json);
    block_on(examine(
        args,
        &host,
        name,
        (&roots, &roots_text),
        credential.as_ref(),
        &mut report,
    ))?;
    report.finish()
}

async fn examine(
    args: &Doctor,
    host: &str,
    name: ServerName<'static>,
    (roots, roots_text): (&RootCertStore, &str),
    credential: Option<&Credential>,
    report: &mut Report,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(args.timeout);
    let ports = args.ports();
    report.add(proxy(&args.proxies))?;

    report.progress(Step::Name, &format!("resolving {host}, {} s at most", args.timeout));
    let (addresses, finding) = ports::resolve(host, limit).await;
    report.add(finding)?;

    report.progress(Step::Ports, &format!("connecting, {} s at most", args.timeout));
    let probes = ports::probe(&addresses, &ports, limit).await;
    report.add(match addresses.is_empty() {
        true => Finding::skipped(Step::Ports, "no address to connect to"),
        false => ports::finding(&probes, &ports),
    })?;

    report.progress(Step::Tls, &format!("shaking hands, {} s at most", 2 * args.timeout));
    let internal = |error: rustls::Error| Failure::usage(format!("--cert and --key: {error}"));
    let endpoints = tls::probe(&probes, &name, limit).await.map_err(internal)?;
    report.add(match endpoints.is_empty() {
        true => Finding::skipped(Step::Tls, "no port is reachable"),
        false => tls::finding(&endpoints),
    })?;

    let mut dialer = Dialer {
        endpoints: &endpoints,
        name: name.clone(),
        host: host.to_owned(),
        config: tls::any_chain(tls::ANY_VERSION, None).map_err(internal)?,
        limit,
    };
    let (clock, https) = if args.ports().iter().any(|(service, _)| *service == Service::Https) {
        report.progress(Step::Https, "asking for the server's date");
        https(&dialer, report).await?
    } else {
        report.add(Finding::skipped(
            Step::Clock,
            "compared over HTTPS, which is not asked for",
        ))?;
        (None, None)
    };

    let judge = Judge {
        name: &name,
        roots,
        roots_text,
        has_own_ca: args.ca.is_some(),
        now: protocols::seconds_now(),
        difference: clock.map(|clock| clock.difference),
    };
    let chains = chain::judge(&endpoints, &judge);
    report.add(match chains.is_empty() {
        true => Finding::skipped(Step::Certificate, "no port speaks TLS"),
        false => chain::finding(&chains, &judge),
    })?;

    protocols(args, &dialer, https, report).await?;

    let is_trusted = !chains.is_empty() && chains.iter().all(chain::Judged::is_trusted);
    let finding = match credential {
        None => Finding::skipped(
            Step::Credential,
            "none was given (--connection-string, or --cert and --key)",
        ),
        Some(_) if !is_trusted => Finding::skipped(
            Step::Credential,
            "not sent: the server has not proved that it is the hub",
        ),
        Some(credential) => {
            report.progress(Step::Credential, &format!("connecting as {}", credential.identity));
            if let Proof::Certificate(client) = &credential.proof {
                dialer.config = tls::any_chain(tls::ANY_VERSION, Some(client)).map_err(internal)?;
            }
            credential::finding(credential, &dialer, clock).await
        }
    };
    report.add(finding)
}

/// The HTTPS request, early because chains are judged by its date. Its own finding comes with the other protocols'.
async fn https(
    dialer: &Dialer<'_>,
    report: &mut Report,
) -> Result<(Option<protocols::ServerClock>, Option<Finding>), Failure> {
    if !dialer.can_dial(Service::Https) {
        report.add(Finding::skipped(Step::Clock, "no HTTPS to compare with"))?;
        return Ok((None, Some(Finding::skipped(Step::Https, "its port does not speak TLS"))));
    }
    let (clock, https, finding) = protocols::https(dialer).await;
    report.add(finding)?;
    Ok((clock, Some(https)))
}

async fn protocols(
    args: &Doctor,
    dialer: &Dialer<'_>,
    https: Option<Finding>,
    report: &mut Report,
) -> Result<(), Failure> {
    let steps = [
        (Protocol::Mqtt, Step::Mqtt, Service::Mqtt),
        (Protocol::MqttWs, Step::MqttWs, Service::Https),
        (Protocol::Amqp, Step::Amqp, Service::Amqp),
    ];
    if let Some(https) = https.filter(|_| args.has(Protocol::Https)) {
        report.add(https)?;
    }
    for (protocol, step, service) in steps {
        if !args.has(protocol) {
            continue;
        }
        let finding = if !dialer.can_dial(service) {
            Finding::skipped(step, "its port does not speak TLS")
        } else {
            report.progress(step, "asking for an answer");
            match service {
                Service::Amqp => protocols::amqp(dialer).await,
                over => protocols::mqtt(dialer, over).await,
            }
        };
        report.add(finding)?;
    }
    Ok(())
}

fn proxy(proxies: &Proxies) -> Finding {
    let set = proxies.set();
    if set.is_empty() {
        return Finding::passed(Step::Proxy, "no proxy variable is set");
    }
    let names: Vec<&str> = set.iter().map(|(name, _)| *name).collect();
    Finding::warning(
        Step::Proxy,
        format!("{} set; the checks here go directly, without a proxy", names.join(", ")),
    )
    .details(set.iter().map(|(name, value)| format!("{name}={value}")).collect())
    .facts(json!(set.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()))
    .advise("an SDK that uses the proxy goes another way: it needs HTTPS or WebSockets, and the proxy must pass them on unopened")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_password_is_not_shown() {
        assert_eq!(without_login("http://user:p%40ss@proxy:3128"), "http://…@proxy:3128");
        assert_eq!(without_login("user:pass@proxy:3128"), "…@proxy:3128");
        assert_eq!(without_login("http://proxy:3128"), "http://proxy:3128");
    }
}
