//! The deny list, and the CAs' revocation lists.

use holdfast_proto::registry::v1::{
    CrlPart, CrlRecord, PutCa, PutCrl, PutRevocation, RemoveCa, RemoveCrl, RemoveRevocation, RevocationRecord,
    RevokedCertificate,
};

use super::*;

const MOST: u32 = 3;

fn digest(byte: u8) -> Option<RevokedCertificate> {
    Some(RevokedCertificate {
        sha256: vec![byte; 32].into(),
        ..RevokedCertificate::default()
    })
}

fn issued(byte: u8) -> Option<RevokedCertificate> {
    Some(RevokedCertificate {
        issuer: vec![byte; 32].into(),
        serial: vec![byte; 21].into(),
        ..RevokedCertificate::default()
    })
}

fn revoke(certificate: Option<RevokedCertificate>, reason: &str) -> Command {
    Command::PutRevocation(PutRevocation {
        certificate,
        reason: reason.to_owned(),
        comment: String::new(),
        ca: String::new(),
        max_revoked: MOST,
    })
}

fn unrevoke(certificate: Option<RevokedCertificate>) -> Command {
    Command::RemoveRevocation(RemoveRevocation { certificate })
}

fn ca(name: &str, certificate: &'static [u8], if_match: Option<&str>) -> Command {
    Command::PutCa(PutCa {
        name: name.to_owned(),
        if_match: if_match.map(str::to_owned),
        etag: "e".to_owned(),
        certificate: Bytes::from_static(certificate),
        is_verified: Some(true),
        max_cas: 10,
    })
}

fn list(name: &str, certificate: &'static [u8], number: &'static [u8], entries: usize) -> PutCrl {
    PutCrl {
        ca: name.to_owned(),
        certificate: Bytes::from_static(certificate),
        issuer: Bytes::from_static(certificate),
        number: Bytes::from_static(number),
        this_update_ms: 1,
        next_update_ms: 2,
        sha256: [number, &entries.to_be_bytes()[..]].concat().into(),
        serials: vec![1; entries * 21].into(),
        source: String::new(),
        max_entries: 30_000,
    }
}

impl Memory {
    /// The number of the answer; effects on revocations must be known to the node when it is done.
    fn revocation_code(&mut self, time_ms: u64, command: Command) -> u32 {
        let effects = self.command(time_ms, command);
        let code = effects.answer.entries[0].error_code;
        assert_eq!(effects.revocations_changed, code == 0);
        code
    }

    fn parts(&self, ca: &str) -> Vec<usize> {
        let part = |part| View::new(self).message::<CrlPart>(&layout::crl_part(ca, part)).unwrap();
        (0..100).map_while(part).map(|part| part.serials.len()).collect()
    }
}

#[test]
fn a_certificate_is_denied_once_since_when_and_why_it_was_first() {
    let mut hub = Memory::founded(10);
    assert_eq!(version_of(&revoke(digest(1), "x")), 8, "an older replica stops there");
    assert!(hub.command(1, revoke(digest(1), "keyCompromise")).answer.entries[0].created);
    assert!(!hub.command(2, revoke(digest(1), "superseded")).answer.entries[0].created);
    let record: RevocationRecord = View::new(&hub)
        .message(&layout::revoked_certificate(&[1; 32]))
        .unwrap()
        .unwrap();
    assert_eq!((record.reason.as_str(), record.revoked_ms), ("keyCompromise", 1));
    assert_eq!(hub.revocation_code(3, revoke(issued(1), "superseded")), 0);
    assert_eq!(hub.revocation_code(3, revoke(digest(2), "superseded")), 0);
    assert_eq!(hub.revocation_code(4, revoke(digest(3), "superseded")), 400_003, "full");
    assert_eq!(
        hub.revocation_code(4, revoke(digest(2), "superseded")),
        0,
        "it is there"
    );
    assert_eq!(hub.revocation_code(5, unrevoke(digest(3))), 404_008);
    assert_eq!(hub.revocation_code(5, unrevoke(issued(1))), 0);
    assert_eq!(hub.revocation_code(5, unrevoke(issued(1))), 404_008);
    assert_eq!(hub.revocation_code(6, revoke(digest(3), "superseded")), 0);
}

#[test]
fn a_list_is_replaced_by_a_newer_one_of_its_issuer_and_goes_with_its_ca() {
    let mut hub = Memory::founded(10);
    let put = Command::PutCrl;
    assert_eq!(hub.revocation_code(1, put(list("root", b"a", &[5], 1))), 404_008);
    hub.command(1, ca("Root", b"a", None));
    assert_eq!(hub.revocation_code(2, put(list("root", b"b", &[5], 1))), 412_001);
    assert_eq!(hub.revocation_code(2, put(list("root", b"a", &[5], 20_000))), 0);
    let part = 8 * 1024 * 21;
    assert_eq!(hub.parts("ROOT"), [part, part, 20_000 * 21 - 2 * part]);
    for number in [&[4][..], &[5], &[]] {
        let number: &'static [u8] = number.to_vec().leak();
        assert_eq!(hub.revocation_code(3, put(list("root", b"a", number, 1))), 400_003);
    }
    assert_eq!(
        hub.revocation_code(3, put(list("root", b"a", &[5], 20_000))),
        0,
        "the same"
    );
    assert_eq!(hub.revocation_code(4, put(list("root", b"a", &[1, 0], 1))), 0);
    assert_eq!(hub.parts("root"), [21], "nothing of the earlier one stays");
    let record: CrlRecord = View::new(&hub).message(&layout::crl("root")).unwrap().unwrap();
    assert_eq!((record.ca.as_str(), record.entries), ("Root", 1));
    // All together have a limit; an empty list has no parts.
    hub.command(5, ca("other", b"o", None));
    assert_eq!(hub.revocation_code(5, put(list("other", b"o", &[1], 30_000))), 400_003);
    assert_eq!(hub.revocation_code(5, put(list("other", b"o", &[1], 29_999))), 0);
    assert_eq!(hub.revocation_code(5, put(list("other", b"o", &[2], 0))), 0);
    assert_eq!(hub.parts("other"), [] as [usize; 0]);
    let remove = |name: &str| Command::RemoveCrl(RemoveCrl { ca: name.to_owned() });
    assert_eq!(hub.revocation_code(6, remove("other")), 0);
    assert_eq!(hub.revocation_code(6, remove("other")), 404_008);
    // Another issuer counts from its own number.
    hub.command(7, ca("root", b"c", Some("*")));
    assert_eq!(hub.revocation_code(7, put(list("root", b"c", &[1], 2))), 0);
    let remove_ca = Command::RemoveCa(RemoveCa {
        name: "root".to_owned(),
        if_match: None,
    });
    assert_eq!(hub.revocation_code(8, remove_ca), 0);
    assert_eq!(hub.parts("root"), [] as [usize; 0]);
    assert!(
        View::new(&hub)
            .message::<CrlRecord>(&layout::crl("root"))
            .unwrap()
            .is_none()
    );
}
