//! The DNS names in the certificates of nodes. Pure.

/// The DNS name that the certificate of every node carries. It identifies a node of the cluster, and it is the name that
/// TLS verifies, since addresses change.
pub const PEER_DNS_NAME: &str = "peer.holdfast";

/// The DNS name that identifies the node of a certificate: the node's name as a label in front of [`PEER_DNS_NAME`].
#[must_use]
pub fn node_dns_name(name: &str) -> String {
    format!("{name}.{PEER_DNS_NAME}")
}
