//! Who is let in: the rules of the hello that begins every connection. Pure.
//!
//! Every refusal says what is wrong and what an operator does about it; both sides log it.

use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};

use super::PeerIdentity;
use super::config::Unnamed;
use super::tls::node_dns_name;

/// The protocol versions that this program speaks, both included.
pub(crate) const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub(crate) const PROTOCOL_MAX: u32 = 1;

/// The most bytes of each text of a hello.
const MAX_TEXT: usize = 512;

/// The most bytes of a whole hello or its answer.
pub(crate) const MAX_HELLO: usize = 8 << 10;

/// Somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: HelloRefusal,
    pub(crate) text: String,
}

/// All labels of refusals in metrics.
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

/// The label of a refusal in metrics.
pub(crate) fn label(why: HelloRefusal) -> &'static str {
    match why {
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

fn refuse(why: HelloRefusal, text: String) -> Result<u32, Refused> {
    Err(Refused { why, text })
}

/// What this node says when it opens a connection.
pub(crate) fn hello(ours: &PeerIdentity, instance: u64, purpose: Purpose, to: u64) -> Hello {
    Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster: ours.cluster.clone(),
        node: ours.node,
        name: ours.name.clone(),
        address: ours.address.clone(),
        version: ours.version.clone(),
        instance,
        purpose: purpose.into(),
        to,
    }
}

/// What this node answers.
pub(crate) fn answer(ours: &PeerIdentity, instance: u64, verdict: Result<u32, Refused>) -> HelloAnswer {
    let (refusal, problem, protocol) = match verdict {
        Ok(protocol) => (HelloRefusal::Unspecified, String::new(), protocol),
        Err(refused) => (refused.why, refused.text, 0),
    };
    HelloAnswer {
        refusal: refusal.into(),
        problem,
        protocol,
        cluster: ours.cluster.clone(),
        node: ours.node,
        name: ours.name.clone(),
        address: ours.address.clone(),
        version: ours.version.clone(),
        instance,
    }
}

/// The version that both speak, when the caller is to be let in. Whether its node id is free is judged afterwards.
pub(crate) fn judge(ours: &PeerIdentity, theirs: &Hello, removed: bool) -> Result<u32, Refused> {
    let texts = [&theirs.cluster, &theirs.name, &theirs.address, &theirs.version];
    if texts
        .iter()
        .any(|text| text.len() > MAX_TEXT || text.contains(char::is_control))
    {
        return refuse(
            HelloRefusal::Malformed,
            "a text of the hello is too long or not printable".into(),
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
    if theirs.to != 0 && theirs.to != ours.node {
        return refuse(
            HelloRefusal::WrongNode,
            format!(
                "this is node {} ({}), not node {}: another node has taken its address {}",
                ours.node, ours.name, theirs.to, ours.address,
            ),
        );
    }
    if theirs.node == ours.node {
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

/// Whether a certificate is one of the node that shows it.
///
/// `nodes` are the nodes that it is for, in lower case. A node that is a member goes by the name that the registry has
/// (`registered`), whatever it says itself: otherwise the certificate of one node would open the place of every other.
pub(crate) fn check_certificate(
    nodes: &[String],
    unnamed: Unnamed,
    node: u64,
    told: &str,
    registered: Option<&str>,
) -> Result<(), Refused> {
    let name = registered.unwrap_or(told);
    let told: String = name.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    if nodes.iter().any(|bound| bound.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let text = match (nodes, unnamed) {
        ([], Unnamed::Accept) => return Ok(()),
        ([], Unnamed::Refuse) => format!(
            "the certificate of node {node} ({told}) does not say which node it is for: issue one with the DNS name {}, \
             or set cluster.accept_unnamed_certificates on all nodes",
            node_dns_name(&told)
        ),
        (nodes, _) => format!(
            "node {node} is {told}, and its certificate is that of {}: give it its own, with the DNS name {}",
            nodes.join(", "),
            node_dns_name(&told)
        ),
    };
    Err(Refused {
        why: HelloRefusal::Certificate,
        text,
    })
}

/// Whether the node that answered is the one that was meant.
pub(crate) fn accept(ours: &PeerIdentity, to: u64, answer: &HelloAnswer) -> Result<u32, Refused> {
    if answer.refusal() != HelloRefusal::Unspecified || answer.refusal != 0 {
        let mut text = answer.problem.clone();
        text.retain(|c| !c.is_control());
        return refuse(answer.refusal(), text.chars().take(MAX_TEXT).collect());
    }
    if to != 0 && answer.node != to {
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
