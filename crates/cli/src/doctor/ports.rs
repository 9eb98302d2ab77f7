//! Steps `name` and `ports`: the addresses of the name, and which of them take a TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::{Finding, Step};

/// Addresses of a name that are tried; a name with more is a load balancer's, and the rest behaves alike.
const MAX_ADDRESSES: usize = 8;

/// What listens on a port of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Mqtt,
    Https,
    Amqp,
}

impl Service {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "MQTT",
            Self::Https => "HTTPS and WebSockets",
            Self::Amqp => "AMQP",
        }
    }
}

/// The answer to a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    Open(Duration),
    /// The machine answers that nothing listens there.
    Refused,
    /// No answer at all.
    Blocked,
    /// The network answers that there is no way.
    NoRoute,
    Failed(String),
}

/// One address and port.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) service: Service,
    pub(super) address: SocketAddr,
    pub(super) reach: Reach,
}

impl Probe {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.reach, Reach::Open(_))
    }

    fn text(&self) -> String {
        let outcome = match &self.reach {
            Reach::Open(took) => format!("reachable ({} ms)", took.as_millis()),
            Reach::Refused => "refused: the machine answers, nothing listens on this port".to_owned(),
            Reach::Blocked => "blocked: no answer; a firewall drops it, or the machine is off".to_owned(),
            Reach::NoRoute => "no route: the network knows no way to this address".to_owned(),
            Reach::Failed(error) => format!("failed: {error}"),
        };
        format!("{} ({}): {outcome}", self.address, self.service.as_str())
    }

    const fn word(&self) -> &'static str {
        match self.reach {
            Reach::Open(_) => "reachable",
            Reach::Refused => "refused",
            Reach::Blocked => "blocked",
            Reach::NoRoute => "no-route",
            Reach::Failed(_) => "failed",
        }
    }
}

/// The addresses of `host`, and the finding.
pub(super) async fn resolve(host: &str, limit: Duration) -> (Vec<IpAddr>, Finding) {
    let step = Step::Name;
    if let Ok(address) = host.parse::<IpAddr>() {
        let finding = Finding::passed(step, format!("{address} is an address; no name to resolve"));
        return (vec![address], finding.facts(json!({"addresses": [address]})));
    }
    let begin = Instant::now();
    let found = timeout(limit, tokio::net::lookup_host((host, 0))).await;
    let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let advice = "check the spelling of the name; compare with another network; ask this machine's DNS server \
                  (`getent hosts NAME`)";
    let mut addresses = Vec::new();
    match found {
        Err(_) => {
            let text = format!(
                "{host} was not resolved within {} s: no DNS server answers",
                limit.as_secs_f32()
            );
            (
                addresses,
                Finding::failed(step, text).advise("check the DNS servers of this network (/etc/resolv.conf)"),
            )
        }
        Ok(Err(error)) => (
            addresses,
            Finding::failed(step, format!("{host} has no address: {error}")).advise(advice),
        ),
        Ok(Ok(found)) => {
            for ip in found.map(|address| address.ip()) {
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
            let all = addresses.len();
            addresses.truncate(MAX_ADDRESSES);
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let facts = json!({"addresses": list, "milliseconds": millis});
            let finding = if list.is_empty() {
                Finding::failed(step, format!("{host} has no address")).advise(advice)
            } else {
                let more = if all > MAX_ADDRESSES {
                    format!(" and {} more, which are not tried", all - MAX_ADDRESSES)
                } else {
                    String::new()
                };
                Finding::passed(step, format!("{host} is {}{more} ({millis} ms)", list.join(", ")))
            };
            (addresses, finding.facts(facts))
        }
    }
}

/// Connects to every port at every address, all at once.
pub(super) async fn probe(addresses: &[IpAddr], ports: &[(Service, u16)], limit: Duration) -> Vec<Probe> {
    let all = ports.iter().flat_map(|(service, port)| {
        addresses.iter().map(move |ip| async move {
            let address = SocketAddr::new(*ip, *port);
            Probe {
                service: *service,
                address,
                reach: reach(address, limit).await,
            }
        })
    });
    join_all(all).await
}

async fn reach(address: SocketAddr, limit: Duration) -> Reach {
    let begin = Instant::now();
    match timeout(limit, TcpStream::connect(address)).await {
        Err(_) => Reach::Blocked,
        Ok(Ok(_)) => Reach::Open(begin.elapsed()),
        Ok(Err(error)) => classify(&error),
    }
}

fn classify(error: &io::Error) -> Reach {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reach::Refused,
        io::ErrorKind::TimedOut => Reach::Blocked,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Reach::NoRoute,
        _ => Reach::Failed(error.to_string()),
    }
}

/// The finding: failed when a port is reachable at no address, a warning when it is at some.
pub(super) fn finding(probes: &[Probe], ports: &[(Service, u16)]) -> Finding {
    let details = probes.iter().map(Probe::text).collect();
    let facts: Vec<_> = probes
        .iter()
        .map(|probe| {
            json!({
                "address": probe.address.ip(),
                "port": probe.address.port(),
                "result": probe.word(),
                "milliseconds": match probe.reach {
                    Reach::Open(took) => Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                    _ => None,
                },
            })
        })
        .collect();
    let is_closed = |(service, port): &&(Service, u16)| {
        !probes
            .iter()
            .any(|probe| probe.service == *service && probe.address.port() == *port && probe.is_open())
    };
    let closed: Vec<String> = ports
        .iter()
        .filter(is_closed)
        .map(|(service, port)| format!("{port} ({})", service.as_str()))
        .collect();
    let finding = if closed.is_empty() && probes.iter().all(Probe::is_open) {
        Finding::passed(Step::Ports, "every port is reachable at every address")
    } else if closed.is_empty() {
        Finding::warning(Step::Ports, "every port is reachable, but not at every address").advise(
            "clients that try only the first address fail: take the other addresses out of DNS, or start what listens there",
        )
    } else {
        Finding::failed(Step::Ports, format!("not reachable: {}", closed.join(", "))).advise(advice(probes))
    };
    finding.details(details).facts(facts.into())
}

fn advice(probes: &[Probe]) -> String {
    let has = |reach: &Reach| probes.iter().any(|probe| probe.reach == *reach);
    let mut advice = Vec::new();
    if has(&Reach::Blocked) {
        advice.push(
            "blocked: let the firewall of this network pass outgoing TCP to this port; where only 443 is allowed, use MQTT or \
             AMQP over WebSockets",
        );
    }
    if has(&Reach::Refused) {
        advice.push("refused: is the hub running, and is this its port (listen.* in its configuration)?");
    }
    if has(&Reach::NoRoute) {
        advice.push("no route: check this machine's network, gateway and VPN; an IPv6 address needs IPv6");
    }
    if advice.is_empty() {
        advice.push("the operating system's reason is in the list");
    }
    advice.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_systems_reasons_are_distinguished() {
        let of = |kind: io::ErrorKind| classify(&kind.into());
        assert_eq!(of(io::ErrorKind::ConnectionRefused), Reach::Refused);
        assert_eq!(of(io::ErrorKind::TimedOut), Reach::Blocked);
        assert_eq!(of(io::ErrorKind::NetworkUnreachable), Reach::NoRoute);
        assert!(matches!(of(io::ErrorKind::PermissionDenied), Reach::Failed(_)));
    }

    #[test]
    fn a_port_that_is_open_at_one_of_two_addresses_is_a_warning() {
        let probe = |ip: [u8; 4], reach| Probe {
            service: Service::Mqtt,
            address: SocketAddr::from((ip, 8883)),
            reach,
        };
        let ports = [(Service::Mqtt, 8883)];
        let open = probe([127, 0, 0, 1], Reach::Open(Duration::ZERO));
        let closed = probe([127, 0, 0, 2], Reach::Blocked);
        let verdict = |probes: &[Probe]| finding(probes, &ports).verdict;
        use super::super::report::Verdict;
        assert_eq!(verdict(std::slice::from_ref(&open)), Verdict::Passed);
        assert_eq!(verdict(&[open, closed.clone()]), Verdict::Warning);
        let failed = finding(&[closed], &ports);
        assert_eq!(failed.verdict, Verdict::Failed);
        assert!(failed.advice.unwrap().contains("firewall"));
    }
}
