//! The keys of column family "registry" (docs/storage.md).
//!
//! The first letter is the kind of the record; ids follow as they are. They contain no byte 0, which therefore ends a
//! device id.

use std::ops::Range;

use holdfast_model::{DeviceId, IdentityId, ModuleId, PartitionId};
use holdfast_proto::registry::v1 as proto;

/// `AppliedPosition`.
pub(crate) const APPLIED: &[u8] = b"a";
/// `Counters`.
pub(crate) const COUNTERS: &[u8] = b"c";
/// `HubSettings`.
pub(crate) const SETTINGS: &[u8] = b"s";
/// `ClusterRecord`.
pub(crate) const CLUSTER: &[u8] = b"k";
/// How much of the daily quota is used.
pub(crate) const QUOTA_USE: &[u8] = b"u";
/// `ProvisioningRecord`.
pub(crate) const PROVISIONING: &[u8] = b"P";
const ENROLLMENT: u8 = b'E';
const ENROLLMENT_GROUP: u8 = b'G';
const GROUP_MEMBER: u8 = b'M';
const REGISTRATION: u8 = b'R';
const OPEN_REGISTRATION: u8 = b'O';
const LINKED_HUB: u8 = b'L';
const ISSUER: u8 = b'I';
const DEVICE_CERTIFICATES: u8 = b'C';
const CA: u8 = b'x';
const DEVICE: u8 = b'd';
const JOIN_TOKEN: u8 = b'j';
const MODULE: u8 = b'm';
const NODE: u8 = b'n';
const PLACEMENT: u8 = b'p';
const REMOVED_NODE: u8 = b'r';
const SAVED_QUERY: u8 = b'q';
const TWIN_SEED: u8 = b't';
const REVOCATION: u8 = b'v';
const CRL: u8 = b'y';
const CRL_PART: u8 = b'z';
const END: u8 = 0;

const FIRST: u8 = b'A';
const LAST: u8 = b'z';

/// What a record says of the cluster that holds it, in a backup: a restored hub begins without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfCluster {
    /// A member.
    Node(u64),
    /// The cluster's record, a placement, a join token.
    Other,
}

/// Whether the record of `key` belongs to the cluster and not to the hub.
pub(crate) fn of_cluster(key: &[u8]) -> Option<OfCluster> {
    match key.split_first()? {
        (&NODE, id) => Some(OfCluster::Node(u64::from_be_bytes(id.try_into().ok()?))),
        (&(JOIN_TOKEN | PLACEMENT), _) => Some(OfCluster::Other),
        _ if key == CLUSTER => Some(OfCluster::Other),
        _ => None,
    }
}

/// Decodes a record by its key, and gives the kind's name.
///
/// # Errors
/// The key is of no kind, or the value is none of it.
pub(crate) fn check_record(key: &[u8], value: &[u8]) -> Result<&'static str, String> {
    fn as_message<M: prost::Message + Default>(kind: &'static str, value: &[u8]) -> Result<&'static str, String> {
        M::decode(value).map_err(|error| format!("a record of kind {kind} cannot be decoded: {error}"))?;
        Ok(kind)
    }
    let letter = key.first().copied().unwrap_or_default();
    match letter {
        _ if key == COUNTERS => as_message::<proto::Counters>("counters", value),
        _ if key == SETTINGS => as_message::<proto::HubSettings>("settings", value),
        _ if key == CLUSTER => as_message::<proto::ClusterRecord>("cluster", value),
        _ if key == QUOTA_USE => as_message::<proto::QuotaUseRecord>("quota use", value),
        _ if key == PROVISIONING => as_message::<proto::ProvisioningRecord>("provisioning", value),
        ENROLLMENT | ENROLLMENT_GROUP => as_message::<proto::EnrollmentRecord>("enrollment", value),
        GROUP_MEMBER | OPEN_REGISTRATION if value.is_empty() => Ok("mark"),
        REGISTRATION => as_message::<proto::RegistrationRecord>("registration", value),
        LINKED_HUB => as_message::<proto::LinkedHubRecord>("linked hub", value),
        ISSUER => as_message::<proto::IssuerRecord>("issuing CA", value),
        DEVICE_CERTIFICATES => as_message::<proto::DeviceCertificatesRecord>("device certificates", value),
        CA => as_message::<proto::CaRecord>("CA", value),
        DEVICE => as_message::<proto::IdentityRecord>("device", value),
        MODULE => as_message::<proto::IdentityRecord>("module", value),
        JOIN_TOKEN => as_message::<proto::JoinTokenRecord>("join token", value),
        NODE => as_message::<proto::NodeRecord>("node", value),
        PLACEMENT => as_message::<proto::PlacementRecord>("placement", value),
        REMOVED_NODE => as_message::<proto::RemovedNodeRecord>("removed node", value),
        SAVED_QUERY => as_message::<proto::SavedQueryRecord>("saved query", value),
        TWIN_SEED => as_message::<proto::TwinSeed>("twin of a create", value),
        REVOCATION => as_message::<proto::RevocationRecord>("revocation", value),
        CRL => as_message::<proto::CrlRecord>("revocation list", value),
        CRL_PART => as_message::<proto::CrlPart>("part of a revocation list", value),
        _ => Err("a record is of a kind that this version does not know".to_owned()),
    }
}

/// The keys that only commands of these versions or later have written, the latest first.
pub(crate) fn levels() -> [(u32, Vec<Range<Vec<u8>>>); 6] {
    let kinds = |letters: &[u8]| letters.iter().copied().map(kind).collect();
    [
        (12, kinds(&[OPEN_REGISTRATION, LINKED_HUB, ISSUER, DEVICE_CERTIFICATES])),
        (
            11,
            kinds(&[PROVISIONING[0], ENROLLMENT, ENROLLMENT_GROUP, REGISTRATION]),
        ),
        (10, kinds(&[QUOTA_USE[0]])),
        (8, kinds(&[REVOCATION, CRL])),
        (6, kinds(&[CA])),
        (5, kinds(&[SAVED_QUERY])),
    ]
}

/// The keys of the registry: those that begin with a letter. Keys before them in the column family belong to the storage
/// engine.
pub(crate) fn all() -> Range<Vec<u8>> {
    vec![FIRST]..vec![LAST + 1]
}

/// Whether `key` is in [`all`].
pub(crate) fn is_ours(key: &[u8]) -> bool {
    key.first().is_some_and(|letter| (FIRST..=LAST).contains(letter))
}

/// `NodeRecord` of a member.
pub(crate) fn node(id: u64) -> Vec<u8> {
    join(NODE, &[&id.to_be_bytes()])
}

/// The keys of all members, by id.
pub(crate) fn nodes() -> Range<Vec<u8>> {
    kind(NODE)
}

/// `RemovedNodeRecord`.
pub(crate) fn removed_node(id: u64) -> Vec<u8> {
    join(REMOVED_NODE, &[&id.to_be_bytes()])
}

/// The keys of all removed nodes.
pub(crate) fn removed_nodes() -> Range<Vec<u8>> {
    kind(REMOVED_NODE)
}

/// `PlacementRecord`.
pub(crate) fn placement(partition: PartitionId) -> Vec<u8> {
    join(PLACEMENT, &[&partition.0.to_be_bytes()])
}

/// The keys of all placements, by partition.
pub(crate) fn placements() -> Range<Vec<u8>> {
    kind(PLACEMENT)
}

/// `JoinTokenRecord`, by the SHA-256 of its secret.
pub(crate) fn join_token(secret_hash: &[u8]) -> Vec<u8> {
    join(JOIN_TOKEN, &[secret_hash])
}

/// The keys of all join tokens.
pub(crate) fn join_tokens() -> Range<Vec<u8>> {
    kind(JOIN_TOKEN)
}

/// The hash in a key made by [`join_token`].
pub(crate) fn parse_join_token(key: &[u8]) -> Option<&[u8]> {
    let (&JOIN_TOKEN, hash) = key.split_first()? else {
        return None;
    };
    Some(hash)
}

/// `SavedQueryRecord`, by its name in lower case: names differ in more than case.
pub(crate) fn saved_query(name: &str) -> Vec<u8> {
    join(SAVED_QUERY, &[name.to_ascii_lowercase().as_bytes()])
}

/// The keys of all saved queries, by name.
pub(crate) fn saved_queries() -> Range<Vec<u8>> {
    kind(SAVED_QUERY)
}

/// `CaRecord`; names are found in any case.
pub(crate) fn ca(name: &str) -> Vec<u8> {
    join(CA, &[name.to_ascii_lowercase().as_bytes()])
}

/// The keys of all CAs, by name.
pub(crate) fn cas() -> Range<Vec<u8>> {
    kind(CA)
}

/// `RevocationRecord` of a certificate, by its digest.
pub(crate) fn revoked_certificate(sha256: &[u8]) -> Vec<u8> {
    join(REVOCATION, &[b"c", sha256])
}

/// `RevocationRecord` of a certificate, by its issuer and serial number.
pub(crate) fn revoked_serial(issuer: &[u8], serial: &[u8]) -> Vec<u8> {
    join(REVOCATION, &[b"s", issuer, serial])
}

/// The keys of the deny list.
pub(crate) fn revocations() -> Range<Vec<u8>> {
    kind(REVOCATION)
}

/// `CrlRecord` of a CA; names are found in any case.
pub(crate) fn crl(ca: &str) -> Vec<u8> {
    join(CRL, &[ca.to_ascii_lowercase().as_bytes()])
}

/// The keys of all CRLs, by the names of their CAs.
pub(crate) fn crls() -> Range<Vec<u8>> {
    kind(CRL)
}

/// `CrlPart` number `part` of a CA's CRL.
pub(crate) fn crl_part(ca: &str, part: u32) -> Vec<u8> {
    join(
        CRL_PART,
        &[ca.to_ascii_lowercase().as_bytes(), &[END], &part.to_be_bytes()],
    )
}

/// `EnrollmentRecord` of an individual enrollment; ids are found in any case.
pub(crate) fn enrollment(registration_id: &str) -> Vec<u8> {
    join(ENROLLMENT, &[registration_id.to_ascii_lowercase().as_bytes()])
}

/// The keys of all individual enrollments, by id.
pub(crate) fn enrollments() -> Range<Vec<u8>> {
    kind(ENROLLMENT)
}

/// Whether `key` is in [`enrollments`].
pub(crate) fn is_enrollment(key: &[u8]) -> bool {
    key.first() == Some(&ENROLLMENT)
}

/// Whether almost every command reads the record of `key`, and there are few of its kind.
pub(crate) fn is_hot(key: &[u8]) -> bool {
    key == COUNTERS || key == SETTINGS || key == PROVISIONING || key.first() == Some(&ENROLLMENT_GROUP)
}

/// `EnrollmentRecord` of a group; ids are found in any case.
pub(crate) fn enrollment_group(id: &str) -> Vec<u8> {
    join(ENROLLMENT_GROUP, &[id.to_ascii_lowercase().as_bytes()])
}

/// The keys of all enrollment groups, by id.
pub(crate) fn enrollment_groups() -> Range<Vec<u8>> {
    kind(ENROLLMENT_GROUP)
}

/// `RegistrationRecord`; ids are found in any case.
pub(crate) fn registration(registration_id: &str) -> Vec<u8> {
    join(REGISTRATION, &[registration_id.to_ascii_lowercase().as_bytes()])
}

/// The keys of all registrations, by id.
pub(crate) fn registrations() -> Range<Vec<u8>> {
    kind(REGISTRATION)
}

/// `IssuerRecord`; names are found in any case.
pub(crate) fn issuer(name: &str) -> Vec<u8> {
    join(ISSUER, &[name.to_ascii_lowercase().as_bytes()])
}

/// The keys of all issuing CAs, by name.
pub(crate) fn issuers() -> Range<Vec<u8>> {
    kind(ISSUER)
}

/// `DeviceCertificatesRecord`.
pub(crate) fn device_certificates(device: &DeviceId) -> Vec<u8> {
    join(DEVICE_CERTIFICATES, &[device.as_str().as_bytes()])
}

/// Marks a registration as one of a group; the value is empty.
pub(crate) fn group_member(group: &str, registration_id: &str) -> Vec<u8> {
    join(
        GROUP_MEMBER,
        &[
            group.to_ascii_lowercase().as_bytes(),
            &[END],
            registration_id.to_ascii_lowercase().as_bytes(),
        ],
    )
}

/// The keys of the registrations of a group, by id.
pub(crate) fn group_members(group: &str) -> Range<Vec<u8>> {
    let from = group_member(group, "");
    let mut to = from.clone();
    if let Some(end) = to.last_mut() {
        *end = END + 1;
    }
    from..to
}

/// The registration id, in lower case, of a key made by [`group_member`].
pub(crate) fn parse_group_member(key: &[u8]) -> Option<&str> {
    let (&GROUP_MEMBER, rest) = key.split_first()? else {
        return None;
    };
    let end = rest.iter().position(|byte| *byte == END)?;
    std::str::from_utf8(&rest[end + 1..]).ok()
}

/// `LinkedHubRecord`; host names are found in any case.
pub(crate) fn linked_hub(host_name: &str) -> Vec<u8> {
    join(LINKED_HUB, &[host_name.to_ascii_lowercase().as_bytes()])
}

/// The keys of all linked hubs, by host name.
pub(crate) fn linked_hubs() -> Range<Vec<u8>> {
    kind(LINKED_HUB)
}

/// Marks a registration with work to do: an operation in progress, or a device to delete at a hub; the value is empty.
pub(crate) fn open_registration(registration_id: &str) -> Vec<u8> {
    join(OPEN_REGISTRATION, &[registration_id.to_ascii_lowercase().as_bytes()])
}

/// The keys of all registrations with work to do, by id.
pub(crate) fn open_registrations() -> Range<Vec<u8>> {
    kind(OPEN_REGISTRATION)
}

/// The registration id, in lower case, of a key made by [`open_registration`].
pub(crate) fn parse_open_registration(key: &[u8]) -> Option<&str> {
    let (&OPEN_REGISTRATION, id) = key.split_first()? else {
        return None;
    };
    std::str::from_utf8(id).ok()
}

fn kind(letter: u8) -> Range<Vec<u8>> {
    vec![letter]..vec![letter + 1]
}

/// `IdentityRecord` of a device or module.
pub(crate) fn identity(id: &IdentityId) -> Vec<u8> {
    match &id.module {
        None => device(&id.device),
        Some(name) => module(&id.device, name),
    }
}

pub(crate) fn device(id: &DeviceId) -> Vec<u8> {
    join(DEVICE, &[id.as_str().as_bytes()])
}

pub(crate) fn module(device: &DeviceId, module: &ModuleId) -> Vec<u8> {
    join(
        MODULE,
        &[device.as_str().as_bytes(), &[END], module.as_str().as_bytes()],
    )
}

/// `TwinSeed` of a device or module.
pub(crate) fn twin_seed(id: &IdentityId) -> Vec<u8> {
    let module = id.module.as_ref().map_or("", ModuleId::as_str);
    join(TWIN_SEED, &[id.device.as_str().as_bytes(), &[END], module.as_bytes()])
}

/// The keys of all `TwinSeed`s, by device and module; a device before its modules.
pub(crate) fn twin_seeds() -> Range<Vec<u8>> {
    kind(TWIN_SEED)
}

/// The identity of a key made by [`twin_seed`].
pub(crate) fn parse_twin_seed(key: &[u8]) -> Option<IdentityId> {
    let (&TWIN_SEED, rest) = key.split_first()? else {
        return None;
    };
    let end = rest.iter().position(|byte| *byte == END)?;
    let device = DeviceId::parse(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    match &rest[end + 1..] {
        [] => Some(IdentityId::device(device)),
        module => {
            let module = ModuleId::parse(std::str::from_utf8(module).ok()?).ok()?;
            Some(IdentityId::module(device, module))
        }
    }
}

/// The keys of all devices, in id order.
pub(crate) fn devices() -> Range<Vec<u8>> {
    kind(DEVICE)
}

/// The keys of all modules, by device and in id order.
pub(crate) fn all_modules() -> Range<Vec<u8>> {
    kind(MODULE)
}

/// The keys of one device's modules, in id order.
pub(crate) fn modules(device: &DeviceId) -> Range<Vec<u8>> {
    let from = join(MODULE, &[device.as_str().as_bytes(), &[END]]);
    let to = join(MODULE, &[device.as_str().as_bytes(), &[END + 1]]);
    from..to
}

/// The device of a key made by [`device`].
pub(crate) fn parse_device(key: &[u8]) -> Option<DeviceId> {
    let (&DEVICE, id) = key.split_first()? else { return None };
    DeviceId::parse(std::str::from_utf8(id).ok()?).ok()
}

/// The module of a key made by [`module`].
pub(crate) fn parse_module(key: &[u8]) -> Option<(DeviceId, ModuleId)> {
    let (&MODULE, rest) = key.split_first()? else {
        return None;
    };
    let end = rest.iter().position(|byte| *byte == END)?;
    let device = DeviceId::parse(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    let module = ModuleId::parse(std::str::from_utf8(&rest[end + 1..]).ok()?).ok()?;
    Some((device, module))
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_key_lies_in_the_range_of_its_device_only() {
        let long = DeviceId::parse("dev-1").unwrap();
        let short = DeviceId::parse("dev").unwrap();
        let name = ModuleId::parse("$edgeHub").unwrap();
        let key = module(&long, &name);
        assert!(modules(&long).contains(&key));
        assert!(!modules(&short).contains(&key));
        assert_eq!(parse_module(&key), Some((long.clone(), name)));
        assert_eq!(parse_device(&device(&long)), Some(long));
    }
}
