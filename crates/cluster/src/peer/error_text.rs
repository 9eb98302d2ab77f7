//! Texts of connection errors, for logs and the cluster's status: certificate problems say what to do about them.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use tonic::Status;

use super::protocol::names::PEER_DNS_NAME;

/// Longest text of a status that is shown, in characters.
const MAX_STATUS_CHARS: usize = 1024;

/// An error and its causes in one line.
pub(crate) fn of_error(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return of_tls_error(error);
        }
        if let Some(inner) = cause
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return of_tls_error(inner);
        }
        let line = cause.to_string();
        // HTTP/2 keeps only the text of an error of the socket.
        if let Some((_, alert)) = line.split_once("received fatal alert: ") {
            return certificate_refused(alert);
        }
        if !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        next = cause.source();
    }
    text
}

/// The text of a gRPC status: its causes, or its message.
pub(crate) fn of_status(status: &Status) -> String {
    match Error::source(status) {
        Some(cause) => of_error(cause),
        None => status
            .message()
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_STATUS_CHARS)
            .collect(),
    }
}

/// The text of a TLS error.
pub(crate) fn of_tls_error(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(cause) => match cause {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate was not issued by a CA in cluster.ca_file".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired: renew it".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet: compare the clocks".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the certificate does not carry the DNS name {PEER_DNS_NAME}: it is not one of a node")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the certificate must be good for both server and client authentication".to_owned()
            }
            other => format!("the certificate is refused: {other}"),
        },
        rustls::Error::NoCertificatesPresented => "it presented no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => certificate_refused(&format!("{alert:?}")),
        other => other.to_string(),
    }
}

fn certificate_refused(alert: &str) -> String {
    format!("the other side refused this node's certificate ({alert}): compare cluster.ca_file on both nodes")
}

/// Whether an error text says that the received bytes were not HTTP/2, as opposed to a lost connection.
pub(crate) fn is_garbage(text: &str) -> bool {
    text.contains("connection error detected")
}
