//! The rules of the hello with which every connection starts. Pure.
//!
//! Each refusal says what is wrong and what an operator does about it; both nodes log it.

use holdfast_model::NodeId;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};

use super::names::node_dns_name;
use crate::peer::config::{PeerIdentity, UnnamedCertificates};

/// The oldest protocol version that this program speaks.
pub(crate) const PROTOCOL_MIN: u32 = 1;
/// The newest protocol version that this program speaks.
pub(crate) const PROTOCOL_MAX: u32 = 1;

/// Limit of each text in a hello, in bytes.
const MAX_TEXT: usize = 512;

/// Limit of a whole hello or its answer, in bytes.
pub(crate) const MAX_HELLO: usize = 8 << 10;

/// A refused hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelloRefused {
    pub(crate) reason: HelloRefusal,
    pub(crate) text: String,
}

/// All values of the metric's label for refusals.
pub(crate) const LABELS: [&str; 9] = [
    "other",
    "version",
    "cluster",
    "wrong-node",
    "same-node",
    "removed",
    "malformed",
    "busy",
    "certificate",
];

/// The value of the metric's label for a refusal.
pub(crate) fn label(reason: HelloRefusal) -> &'static str {
    match reason {
        HelloRefusal::Unspecified => "other",
        HelloRefusal::Version => "version",
        HelloRefusal::Cluster => "cluster",
        HelloRefusal::WrongNode => "wrong-node",
        HelloRefusal::SameNode => "same-node",
        HelloRefusal::Removed => "removed",
        HelloRefusal::Malformed => "malformed",
        HelloRefusal::Busy => "busy",
        HelloRefusal::Certificate => "certificate",
    }
}

fn refuse(reason: HelloRefusal, text: String) -> Result<u32, HelloRefused> {
    Err(HelloRefused { reason, text })
}

/// The hello of this node.
pub(crate) fn hello(ours: &PeerIdentity, instance: u64, purpose: Purpose, to: NodeId) -> Hello {
    Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster: ours.cluster.clone(),
        node: ours.node.get(),
        name: ours.name.clone(),
        address: ours.address.clone(),
        version: ours.version.clone(),
        instance,
        purpose: purpose.into(),
        to: to.get(),
    }
}

/// This node's answer to a hello.
pub(crate) fn answer(ours: &PeerIdentity, instance: u64, verdict: Result<u32, HelloRefused>) -> HelloAnswer {
    let (refusal, problem, protocol) = match verdict {
        Ok(protocol) => (HelloRefusal::Unspecified, String::new(), protocol),
        Err(refused) => (refused.reason, refused.text, 0),
    };
    HelloAnswer {
        refusal: refusal.into(),
        problem,
        protocol,
        cluster: ours.cluster.clone(),
        node: ours.node.get(),
        name: ours.name.clone(),
        address: ours.address.clone(),
        version: ours.version.clone(),
        instance,
    }
}

/// Checks a hello; returns the protocol version that both nodes speak. The peer table checks afterwards that the node id
/// is not in use.
pub(crate) fn check_hello(ours: &PeerIdentity, theirs: &Hello, removed: bool) -> Result<u32, HelloRefused> {
    let texts = [&theirs.cluster, &theirs.name, &theirs.address, &theirs.version];
    if texts
        .iter()
        .any(|text| text.len() > MAX_TEXT || text.contains(char::is_control))
    {
        return refuse(
            HelloRefusal::Malformed,
            "a text of the hello is too long or has control characters".into(),
        );
    }
    if theirs.protocol_min > theirs.protocol_max || theirs.node == 0 {
        return refuse(HelloRefusal::Malformed, "the hello names no version or no node".into());
    }
    let purpose = theirs.purpose();
    if purpose == Purpose::Unspecified {
        return refuse(HelloRefusal::Malformed, "the hello names no purpose known here".into());
    }
    if theirs.protocol_max < PROTOCOL_MIN || theirs.protocol_min > PROTOCOL_MAX {
        let older = if theirs.protocol_max < PROTOCOL_MIN {
            &theirs.name
        } else {
            &ours.name
        };
        return refuse(
            HelloRefusal::Version,
            format!(
                "{} (version {}) speaks peer protocol {} to {}, {} (version {}) speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}: \
                 upgrade {older}",
                theirs.name, theirs.version, theirs.protocol_min, theirs.protocol_max, ours.name, ours.version,
            ),
        );
    }
    if theirs.to != 0 && theirs.to != ours.node.get() {
        return refuse(
            HelloRefusal::WrongNode,
            format!(
                "this is node {} ({}), not node {}: another node has taken its address {}",
                ours.node, ours.name, theirs.to, ours.address,
            ),
        );
    }
    if theirs.node == ours.node.get() {
        return refuse(
            HelloRefusal::SameNode,
            format!(
                "{} at {} has this node's own id {}: a data directory was copied; empty the copy and join it anew",
                theirs.name, theirs.address, ours.node,
            ),
        );
    }
    if ours.cluster.is_empty() {
        return refuse(
            HelloRefusal::Cluster,
            format!(
                "{} is not a member of a cluster yet: bootstrap it, or let it join one",
                ours.name
            ),
        );
    }
    if purpose == Purpose::Join {
        if !theirs.cluster.is_empty() && theirs.cluster != ours.cluster {
            return refuse(HelloRefusal::Cluster, other_cluster(ours, theirs));
        }
    } else if theirs.cluster != ours.cluster {
        return refuse(HelloRefusal::Cluster, other_cluster(ours, theirs));
    } else if removed {
        return refuse(
            HelloRefusal::Removed,
            format!(
                "node {} ({}) was removed from the cluster: empty its data directory and join it anew",
                theirs.node, theirs.name,
            ),
        );
    }
    Ok(theirs.protocol_max.min(PROTOCOL_MAX))
}

fn other_cluster(ours: &PeerIdentity, theirs: &Hello) -> String {
    format!(
        "{} belongs to cluster {:?}, {} to cluster {:?}: correct the address, or empty the data directory of the node \
         that is to move and join it anew",
        theirs.name, theirs.cluster, ours.name, ours.cluster,
    )
}

/// Checks that a certificate belongs to the node that presents it.
///
/// `nodes` are the nodes that the certificate names, in lower case. For a member, the name in the registry (`registered`)
/// counts instead of the one in its hello: otherwise a node could use its certificate to connect as any other node.
pub(crate) fn check_certificate(
    nodes: &[String],
    unnamed: UnnamedCertificates,
    node: NodeId,
    claimed: &str,
    registered: Option<&str>,
) -> Result<(), HelloRefused> {
    let name = registered.unwrap_or(claimed);
    let shown: String = name.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    if nodes.iter().any(|bound| bound.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let text = match (nodes, unnamed) {
        ([], UnnamedCertificates::Accept) => return Ok(()),
        ([], UnnamedCertificates::Refuse) => format!(
            "the certificate of node {node} ({shown}) does not say which node it is for: issue one with the DNS name {}, \
             or set cluster.accept_unnamed_certificates on all nodes",
            node_dns_name(&shown)
        ),
        (nodes, _) => format!(
            "node {node} is {shown}, and its certificate is that of {}: give it its own, with the DNS name {}",
            nodes.join(", "),
            node_dns_name(&shown)
        ),
    };
    Err(HelloRefused {
        reason: HelloRefusal::Certificate,
        text,
    })
}

/// Checks the answer to a hello that was sent to node `to` (0: any node).
pub(crate) fn check_answer(ours: &PeerIdentity, to: NodeId, answer: &HelloAnswer) -> Result<u32, HelloRefused> {
    if answer.refusal() != HelloRefusal::Unspecified || answer.refusal != 0 {
        let mut text = answer.problem.clone();
        text.retain(|c| !c.is_control());
        return refuse(answer.refusal(), text.chars().take(MAX_TEXT).collect());
    }
    if to != NodeId(0) && answer.node != to.get() {
        return refuse(
            HelloRefusal::WrongNode,
            format!("node {} ({}) answers there", answer.node, answer.name),
        );
    }
    if !ours.cluster.is_empty() && answer.cluster != ours.cluster {
        return refuse(
            HelloRefusal::Cluster,
            format!("a node of cluster {:?} answers there", answer.cluster),
        );
    }
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&answer.protocol) {
        return refuse(
            HelloRefusal::Version,
            format!(
                "it wants to speak peer protocol {}, which is not known here",
                answer.protocol
            ),
        );
    }
    Ok(answer.protocol)
}
