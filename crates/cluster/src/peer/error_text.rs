//! Texts of connection errors, for logs and the cluster's status: certificate problems say what to do about them.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use tonic::Status;

use super::protocol::names::PEER_DNS_NAME;
use crate::error_chain;

/// Longest text of a status that is shown, in characters.
const MAX_STATUS_CHARS: usize = 1024;

/// An error and its causes in one line; of a TLS error, its advice.
pub(crate) fn of_error(error: &(dyn Error + 'static)) -> String {
    match tls_error(error) {
        Some(error) => of_tls_error(error),
        None => error_chain::text(error),
    }
}

/// The TLS error among an error and its causes.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error_chain::causes(error).find_map(|cause| {
        let inner = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
        cause.downcast_ref().or_else(inner)
    })
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
        rustls::Error::AlertReceived(alert) => {
            format!("the other side refused this node's certificate ({alert:?}): compare cluster.ca_file on both nodes")
        }
        other => other.to_string(),
    }
}

/// Whether the received bytes were not HTTP/2, as opposed to a lost connection.
pub(crate) fn is_garbage(error: &(dyn Error + 'static)) -> bool {
    error_chain::causes(error)
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|error| error.is_go_away() && error.is_library())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn bytes_that_are_not_http2_differ_from_a_lost_connection() {
        let (mut peer, socket) = tokio::io::duplex(4096);
        peer.write_all(&[0xff; 64]).await.unwrap();
        let error = h2::server::handshake(socket).await.err().unwrap();
        assert!(is_garbage(&error), "{error:?}");
        let (peer, socket) = tokio::io::duplex(4096);
        drop(peer);
        let lost = h2::server::handshake(socket).await.err().unwrap();
        assert!(!is_garbage(&lost), "{lost:?}");
    }

    #[test]
    fn a_tls_error_is_found_below_an_error_of_the_socket() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let error = io::Error::new(io::ErrorKind::InvalidData, alert);
        let text = of_error(&error);
        assert!(text.contains("UnknownCA") && text.contains("cluster.ca_file"), "{text}");
    }
}
