//! Paths that are verified once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::*;

#[derive(Default)]
struct Memory {
    paths: RefCell<HashMap<PathKey, PathShape>>,
    found: Cell<usize>,
}

impl PathMemory for Memory {
    fn find(&self, key: &PathKey) -> Option<PathShape> {
        let found = self.paths.borrow().get(key).copied();
        self.found.set(self.found.get() + usize::from(found.is_some()));
        found
    }

    fn store(&self, key: PathKey, path: PathShape) {
        self.paths.borrow_mut().insert(key, path);
    }
}

fn decide_with(
    memory: &Memory,
    sent: &[Vec<u8>],
    cas: &CaSet,
    now: UnixMillis,
) -> Result<VerifiedChain, CertificateRefusal> {
    let chain = chain(sent);
    let leaf = ClientCertificate::parse(chain.leaf())?;
    verify_chain(&chain, &leaf, cas, memory, now)
}

#[test]
fn a_known_path_gives_the_same_answer() {
    let root = Ca::root("root");
    let (upper, other) = (root.below("upper"), Ca::root("other"));
    let lower = upper.below("lower");
    let sent = [lower.leaf("dev-1"), lower.der(), upper.der(), other.der()];
    for cas in [&[&root][..], &[&root, &upper], &[&lower, &root]] {
        let (memory, cas) = (Memory::default(), hub(cas));
        let first = decide_with(&memory, &sent, &cas, NOW).unwrap();
        assert_eq!(first, decide(&sent, &cas).unwrap());
        assert_eq!(decide_with(&memory, &sent, &cas, NOW).unwrap(), first);
        assert_eq!(memory.found.get(), 1);
    }
}

#[test]
fn refused_chains_are_not_stored() {
    let (root, stranger) = (Ca::root("root"), Ca::root("root"));
    let (memory, cas) = (Memory::default(), hub(&[&root]));
    for leaf in [stranger.leaf("dev-1"), fixture!("sha1")] {
        assert!(decide_with(&memory, &[leaf], &cas, NOW).is_err());
    }
    assert!(memory.paths.borrow().is_empty());
}

#[test]
fn a_known_path_needs_the_same_certificates_and_the_same_cas() {
    let (root, twin) = (Ca::root("root"), Ca::root("root"));
    let memory = Memory::default();
    let leaf = root.leaf("dev-1");
    decide_with(&memory, std::slice::from_ref(&leaf), &hub(&[&root]), NOW).unwrap();
    // Another certificate, another CA of the name, none.
    assert!(decide_with(&memory, &[twin.leaf("dev-1")], &hub(&[&root]), NOW).is_err());
    assert!(decide_with(&memory, std::slice::from_ref(&leaf), &hub(&[&twin]), NOW).is_err());
    assert!(decide_with(&memory, std::slice::from_ref(&leaf), &CaSet::default(), NOW).is_err());
    let both = decide_with(&memory, &[leaf], &hub(&[&twin, &root]), NOW).unwrap();
    assert_eq!(both.ca, CertificateFingerprints::of(&root.der()).sha256);
    assert_eq!(memory.found.get(), 0);
}

#[test]
fn a_known_path_ends_with_its_certificates_and_with_its_ca() {
    let mut params = ca_params("root");
    params.not_after = date_time_ymd(2032, 1, 1);
    let root = Ca::root_with(params, &PKCS_ECDSA_P256_SHA256);
    let mut params = leaf_params("dev-1");
    params.not_after = date_time_ymd(2031, 1, 1);
    let (short, long) = (root.leaf_with(&params), root.leaf("dev-1"));
    let (memory, mut cas) = (Memory::default(), hub(&[&root]));
    for leaf in [&short, &long] {
        decide_with(&memory, std::slice::from_ref(leaf), &cas, NOW).unwrap();
    }
    let year = |year| UnixMillis(u64::try_from(date_time_ymd(year, 6, 1).unix_timestamp()).unwrap() * 1000);
    assert!(decide_with(&memory, &[short], &cas, year(2031)).is_err());
    decide_with(&memory, std::slice::from_ref(&long), &cas, year(2031)).unwrap();
    assert!(decide_with(&memory, std::slice::from_ref(&long), &cas, year(2033)).is_err());
    let by = RevokedBy::List {
        ca: "root".to_owned(),
        number: CrlNumber::of(&[1]),
    };
    cas.revoke(CertificateFingerprints::of(&root.der()).sha256, by);
    assert!(decide_with(&memory, &[long], &cas, NOW).is_err());
}
