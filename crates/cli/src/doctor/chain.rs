//! Step `certificate`: whether a client accepts the chain, and if not, which rule it breaks.
//!
//! Dates, name and issuer are judged apart, because a chain often breaks several rules and each has another remedy.

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::report::{Finding, Step};
use super::tls::Endpoint;

const DAY: i64 = 86_400;
/// Fewer days left are a warning.
const SOON_DAYS: i64 = 30;
/// Names of a certificate that are shown.
const MAX_NAMES: usize = 20;

/// One certificate, for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    subject: String,
    issuer: String,
    not_before: i64,
    not_after: i64,
    names: Vec<String>,
}

impl Shown {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.into_iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            names: names.take(MAX_NAMES).collect(),
        })
    }

    fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(DAY)
    }

    fn text(&self, now: i64) -> String {
        let left = self.days_left(now);
        let dates = match left {
            _ if now < self.not_before => format!("not valid for another {} days", (self.not_before - now) / DAY),
            ..0 => format!("ended {} days ago", -left),
            _ => format!("{left} days left"),
        };
        format!("{}, issued by {}, {dates}", self.subject, self.issuer)
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string()))
        .ok()
}

/// A rule that the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Broken {
    Ended,
    NotYetValid,
    Name,
    UnknownIssuer,
    /// A trusted CA has the issuer's name, but another key.
    ForeignIssuer,
    Other(String),
}

/// A chain, judged.
#[derive(Debug)]
pub(super) struct Judged {
    shown: Vec<Shown>,
    broken: Vec<Broken>,
    endpoints: Vec<String>,
}

/// The clocks and trust by which chains are judged.
pub(super) struct Judge<'a> {
    pub(super) name: &'a ServerName<'static>,
    pub(super) roots: &'a RootCertStore,
    /// Where the roots come from, for messages.
    pub(super) roots_text: &'a str,
    pub(super) has_own_ca: bool,
    /// This machine's clock, in seconds since 1970: the one that its devices use.
    pub(super) now: i64,
    /// The server's clock minus this machine's, in seconds, where it was measured.
    pub(super) difference: Option<i64>,
}

impl Judge<'_> {
    fn judge(&self, chain: &[CertificateDer<'static>]) -> Vec<Broken> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return vec![Broken::Other("the server shows no certificate".to_owned())];
        };
        let leaf = match ParsedCertificate::try_from(leaf) {
            Ok(leaf) => leaf,
            Err(error) => return vec![Broken::Other(error.to_string())],
        };
        let mut broken = Vec::new();
        let verify = |seconds: i64| {
            let now =
                UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap_or_default()));
            let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&leaf, self.roots, intermediates, now, algorithms)
        };
        let mut outcome = verify(self.now);
        if let Err(Error::InvalidCertificate(error)) = &outcome {
            let dates = match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(Broken::Ended),
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Some(Broken::NotYetValid)
                }
                _ => None,
            };
            if let Some(dates) = dates {
                broken.push(dates);
                // Whether the issuer is trusted is another question: judged at a moment at which all were valid.
                outcome = match common_moment(chain) {
                    Some(moment) => verify(moment),
                    None => Ok(()),
                };
            }
        }
        match outcome {
            Ok(()) => {}
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => broken.push(Broken::UnknownIssuer),
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) => broken.push(Broken::ForeignIssuer),
            Err(error) => broken.push(Broken::Other(error.to_string())),
        }
        if verify_server_name(&leaf, self.name).is_err() {
            broken.push(Broken::Name);
        }
        broken
    }
}

/// A moment at which every certificate of the chain is valid.
fn common_moment(chain: &[CertificateDer<'static>]) -> Option<i64> {
    let shown: Vec<Shown> = chain.iter().filter_map(|der| Shown::read(der)).collect();
    let from = shown.iter().map(|shown| shown.not_before).max()?;
    let to = shown.iter().map(|shown| shown.not_after).min()?;
    (from < to).then_some(to - 1)
}

/// Judges the chain of each endpoint; endpoints with one chain are one entry.
pub(super) fn judge(endpoints: &[Endpoint], judge: &Judge<'_>) -> Vec<Judged> {
    let mut chains: Vec<(&[CertificateDer<'static>], Vec<String>)> = Vec::new();
    for endpoint in endpoints {
        let Some(chain) = endpoint.chain() else { continue };
        let name = endpoint.address.to_string();
        match chains.iter_mut().find(|(known, _)| *known == chain) {
            Some((_, endpoints)) if endpoints.contains(&name) => {}
            Some((_, endpoints)) => endpoints.push(name),
            None => chains.push((chain, vec![name])),
        }
    }
    let judged = chains.into_iter().map(|(chain, endpoints)| Judged {
        shown: chain.iter().filter_map(|der| Shown::read(der)).collect(),
        broken: judge.judge(chain),
        endpoints,
    });
    judged.collect()
}

impl Judged {
    pub(super) fn is_trusted(&self) -> bool {
        self.broken.is_empty()
    }

    fn issuer(&self) -> &str {
        self.shown.first().map_or("", |leaf| &leaf.issuer)
    }

    fn json(&self, now: i64) -> Value {
        json!({
            "endpoints": self.endpoints,
            "trusted": !self.broken.iter().any(|broken| {
                matches!(broken, Broken::UnknownIssuer | Broken::ForeignIssuer | Broken::Other(_))
            }),
            "nameMatches": !self.broken.contains(&Broken::Name),
            "datesValid": !self.broken.iter().any(|broken| matches!(broken, Broken::Ended | Broken::NotYetValid)),
            "chain": self.shown.iter().map(|shown| json!({
                "subject": shown.subject,
                "issuer": shown.issuer,
                "daysLeft": shown.days_left(now),
                "names": shown.names,
            })).collect::<Vec<_>>(),
        })
    }
}

/// The finding for all chains of a run.
pub(super) fn finding(chains: &[Judged], by: &Judge<'_>) -> Finding {
    let mut details = Vec::new();
    for chain in chains {
        details.push(format!("shown by {}:", chain.endpoints.join(", ")));
        details.extend(chain.shown.iter().map(|shown| format!("  {}", shown.text(by.now))));
    }
    let facts: Vec<Value> = chains.iter().map(|chain| chain.json(by.now)).collect();
    let finding = match chains.iter().find(|chain| !chain.is_trusted()) {
        Some(chain) => refused(chain, by),
        None => accepted(chains, by),
    };
    finding.details(details).facts(facts.into())
}

fn accepted(chains: &[Judged], by: &Judge<'_>) -> Finding {
    let soon = chains
        .iter()
        .flat_map(|chain| &chain.shown)
        .filter(|shown| shown.days_left(by.now) < SOON_DAYS)
        .min_by_key(|shown| shown.not_after);
    let is_mixed = chains.iter().any(|chain| chain.issuer() != chains[0].issuer());
    if let Some(soon) = soon {
        let text = format!("trusted, but {} ends in {} days", soon.subject, soon.days_left(by.now));
        return Finding::warning(Step::Certificate, text).advise("the hub's operator renews it (tls.certificate_file)");
    }
    if is_mixed {
        return Finding::warning(Step::Certificate, "trusted, but ports show certificates of several issuers")
            .advise("unless the hub is set up so, something on the way opens TLS on some ports: compare with the hub's certificate");
    }
    Finding::passed(
        Step::Certificate,
        format!("trusted by {}, and it names the host", by.roots_text),
    )
}

fn refused(chain: &Judged, by: &Judge<'_>) -> Finding {
    let mut faults = Vec::new();
    let mut remedies = Vec::new();
    for broken in &chain.broken {
        let (fault, remedy) = explain(broken, chain, by);
        faults.push(fault);
        remedies.push(remedy);
    }
    Finding::failed(
        Step::Certificate,
        format!(
            "devices refuse the certificate of {}: {}",
            chain.endpoints.join(", "),
            faults.join("; ")
        ),
    )
    .advise(remedies.join("; "))
}

fn explain(broken: &Broken, chain: &Judged, by: &Judge<'_>) -> (String, String) {
    let clock = match by.difference {
        Some(difference) if difference.abs() >= DAY => Some(format!(
            "set this machine's clock, which differs from the server's by {difference} s"
        )),
        _ => None,
    };
    match broken {
        Broken::Ended => (
            "it, or its issuer, has ended".to_owned(),
            clock.unwrap_or_else(|| "the hub's operator renews the certificate (tls.certificate_file)".to_owned()),
        ),
        Broken::NotYetValid => (
            "it is not valid yet".to_owned(),
            clock.unwrap_or_else(|| "compare this machine's clock with the certificate's dates".to_owned()),
        ),
        Broken::Name => {
            let names = chain.shown.first().map_or(&[][..], |leaf| &leaf.names);
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            (
                format!("it does not name this host; its names: {names}"),
                "connect by one of its names, or the hub's operator gets a certificate with this name".to_owned(),
            )
        }
        Broken::UnknownIssuer => {
            let root = chain.shown.last().map_or("", |last| last.issuer.as_str());
            let remedy = if by.has_own_ca {
                "give the CA of the hub; if this is the right one, another program on the way shows its own certificate \
                 (a proxy or firewall that opens TLS): compare the issuer with the hub's"
            } else {
                "a hub with a CA of its own needs --ca FILE here and that CA in the device; if its CA is public, another \
                 program on the way shows its own certificate (a proxy or firewall that opens TLS)"
            };
            (
                format!("the issuer \"{root}\" is not among {}", by.roots_text),
                remedy.to_owned(),
            )
        }
        Broken::ForeignIssuer => (
            format!("a CA with the name of its issuer is among {}, but another key has signed it", by.roots_text),
            "the hub has another CA of the same name, which devices need (--ca FILE), or another program on the way shows \
             its own certificate"
                .to_owned(),
        ),
        Broken::Other(error) => (error.clone(), "the hub's operator replaces the certificate".to_owned()),
    }
}
