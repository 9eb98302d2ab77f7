//! The hub's CAs.

use holdfast_proto::registry::v1::{CaRecord, PutCa, RemoveCa, SetCaCode, VerifyCa};

use super::*;

const MOST: u32 = 3;

fn put(name: &str, certificate: &'static [u8], if_match: Option<&str>) -> Command {
    Command::PutCa(PutCa {
        name: name.to_owned(),
        if_match: if_match.map(str::to_owned),
        etag: format!("{name} {}", certificate.escape_ascii()),
        certificate: Bytes::from_static(certificate),
        is_verified: None,
        max_cas: MOST,
    })
}

fn code(name: &str, code: &str) -> Command {
    Command::SetCaCode(SetCaCode {
        name: name.to_owned(),
        if_match: None,
        etag: format!("coded {code}"),
        code: code.to_owned(),
    })
}

fn verify(name: &str, code: &str, certificate: &'static [u8]) -> Command {
    Command::VerifyCa(VerifyCa {
        name: name.to_owned(),
        if_match: None,
        etag: "verified".to_owned(),
        code: code.to_owned(),
        certificate: Bytes::from_static(certificate),
    })
}

fn remove(name: &str, if_match: Option<&str>) -> Command {
    Command::RemoveCa(RemoveCa {
        name: name.to_owned(),
        if_match: if_match.map(str::to_owned),
    })
}

impl Memory {
    fn ca(&self, name: &str) -> Option<CaRecord> {
        View::new(self).message(&layout::ca(name)).unwrap()
    }

    /// The number of the answer to `command`, whose effects on CAs must be known to the node exactly when it is done.
    fn ca_code(&mut self, time_ms: u64, command: Command) -> u32 {
        let effects = self.command(time_ms, command);
        let code = effects.answer.entries[0].error_code;
        assert_eq!(effects.authorities_changed, code == 0);
        code
    }
}

#[test]
fn a_ca_is_added_once_and_replaced_by_its_etag() {
    let mut hub = Memory::founded(10);
    assert_eq!(version_of(&put("Root", b"a", None)), 6, "an older replica stops there");
    assert!(hub.command(1, put("Root", b"a", None)).answer.entries[0].created);
    // In any case of the name.
    assert_eq!(hub.ca_code(2, put("ROOT", b"b", None)), 409_000);
    assert_eq!(hub.ca_code(2, put("root", b"b", Some("stale"))), 412_001);
    assert_eq!(hub.ca_code(2, put("other", b"b", Some("*"))), 404_008);
    let replaced = hub.command(3, put("root", b"b", Some("Root a")));
    assert!(!replaced.answer.entries[0].created);
    let record = hub.ca("rOOt").unwrap();
    assert_eq!((record.name.as_str(), &record.certificate[..]), ("Root", &b"b"[..]));
    assert_eq!((record.created_ms, record.updated_ms), (1, 3));
    assert_eq!(
        hub.ca_code(4, put("copy", b"b", None)),
        409_000,
        "one certificate, one name"
    );
    assert_eq!(hub.ca_code(5, put("second", b"c", None)), 0);
    assert_eq!(hub.ca_code(6, put("third", b"d", None)), 0);
    assert_eq!(hub.ca_code(7, put("fourth", b"e", None)), 400_003);
    assert_eq!(hub.ca_code(8, remove("second", Some("stale"))), 412_001);
    assert_eq!(hub.ca_code(8, remove("second", Some("*"))), 0);
    assert_eq!(hub.ca_code(8, remove("second", None)), 404_008);
    assert_eq!(hub.ca_code(9, put("fourth", b"e", None)), 0);
}

#[test]
fn a_proof_counts_for_the_certificate_and_the_code_that_it_was_checked_against() {
    let mut hub = Memory::founded(10);
    assert_eq!(hub.ca_code(1, code("root", "1")), 404_008);
    assert_eq!(hub.ca_code(1, put("root", b"a", None)), 0);
    assert_eq!(hub.ca_code(2, code("root", "1")), 0);
    assert_eq!(hub.ca_code(3, code("root", "2")), 0);
    assert_eq!(hub.ca_code(4, verify("root", "1", b"a")), 412_001);
    assert_eq!(hub.ca_code(4, verify("root", "2", b"b")), 412_001);
    assert!(!hub.ca("root").unwrap().is_verified);
    assert_eq!(hub.ca_code(5, verify("root", "2", b"a")), 0);
    let record = hub.ca("root").unwrap();
    assert!(record.is_verified && record.verification_code.is_empty());
    // The same certificate again keeps what is known of it, and another one does not.
    assert_eq!(hub.ca_code(6, put("root", b"a", Some("*"))), 0);
    assert!(hub.ca("root").unwrap().is_verified);
    assert_eq!(hub.ca_code(7, put("root", b"b", Some("*"))), 0);
    assert!(!hub.ca("root").unwrap().is_verified);
}
