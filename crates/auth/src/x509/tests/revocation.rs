//! The deny list and revocation lists: what they revoke, and which lists are taken.

use std::time::{Duration, Instant};

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, KeyIdMethod,
    RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use super::*;

/// Most entries of the lists here.
const MOST: usize = 200_000;

/// Far more than any of the cases may take.
const BOUND: Duration = Duration::from_secs(5);

fn denied() -> Denied {
    Denied {
        reason: "keyCompromise".to_owned(),
        at: NOW,
    }
}

fn parsed(ca: &Ca) -> CaCertificate {
    CaCertificate::parse(&ca.der()).unwrap()
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(NOW.0 / 1000).unwrap() + seconds).unwrap()
}

fn entry(serial: &[u8]) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: at(-3600),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    }
}

fn list(number: u64, serials: &[&[u8]]) -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: at(-60),
        next_update: at(3600),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(|serial| entry(serial)).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

impl Ca {
    /// A CA that may sign lists as well.
    fn revoking(common_name: &str) -> Self {
        Self::root_with(Self::revoking_params(common_name), &PKCS_ECDSA_P256_SHA256)
    }

    fn revoking_params(common_name: &str) -> CertificateParams {
        let mut params = ca_params(common_name);
        params.key_usages.push(KeyUsagePurpose::CrlSign);
        params
    }

    fn crl(&self, params: CertificateRevocationListParams) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).unwrap().der().to_vec()
    }

    fn leaf_numbered(&self, serial: &[u8]) -> Vec<u8> {
        let mut params = leaf_params("dev-1");
        params.serial_number = Some(SerialNumber::from_slice(serial));
        self.leaf_with(&params)
    }
}

fn read(der: &[u8], ca: &Ca) -> Result<Crl, CrlError> {
    Crl::read(der, &parsed(ca), MOST, NOW)
}

/// The list as the registry keeps it.
fn kept(crl: Crl, ca: &Ca) -> Arc<RevocationList> {
    Arc::new(RevocationList {
        ca: "ca".to_owned(),
        issuer: parsed(ca).issuer_id(),
        number: crl.number,
        this_update: crl.this_update,
        next_update: crl.next_update,
        serials: crl.serials.into(),
    })
}

#[test]
fn a_list_revokes_the_leaf_and_the_intermediates_of_its_issuer_only() {
    let root = Ca::revoking("root");
    let mut params = Ca::revoking_params("middle");
    params.serial_number = Some(SerialNumber::from_slice(&[0x01, 0x02]));
    let middle = root.below_with(params);
    let leaf = middle.leaf_numbered(&[0x7f, 0x01]);
    let verified = decide(&[leaf, middle.der()], &hub(&[&root])).unwrap();
    assert_eq!(verified.path.len(), 2);
    let revoked = |ca: &Ca, serial: &[u8]| {
        let mut revocations = Revocations::default();
        revocations.add_list(kept(read(&ca.crl(list(1, &[serial])), ca).unwrap(), ca));
        revocations.of_path(&verified.path)
    };
    assert_eq!(revoked(&middle, &[0x7f, 0x01]).unwrap().0, 0, "the leaf");
    assert_eq!(revoked(&root, &[0x01, 0x02]).unwrap().0, 1, "the intermediate");
    // The numbers of another issuer say nothing.
    assert_eq!(revoked(&root, &[0x7f, 0x01]), None);
    assert_eq!(revoked(&middle, &[0x01, 0x02]), None);
    let namesake = Ca::revoking("middle");
    assert_eq!(revoked(&namesake, &[0x7f, 0x01]), None);
}

#[test]
fn the_deny_list_names_certificates_by_digest_and_by_issuer_and_number() {
    let root = Ca::root("root");
    let middle = root.below("middle");
    let leaf = middle.leaf_numbered(&[9]);
    let verified = decide(&[leaf.clone(), middle.der()], &hub(&[&root])).unwrap();
    let of = |change: &dyn Fn(&mut Revocations)| {
        let mut revocations = Revocations::default();
        change(&mut revocations);
        revocations.of_path(&verified.path).map(|(at, _)| at)
    };
    let digest = CertificateFingerprints::sha256;
    assert_eq!(of(&|list| list.deny_certificate(digest(&leaf), denied())), Some(0));
    assert_eq!(
        of(&|list| list.deny_certificate(digest(&middle.der()), denied())),
        Some(1)
    );
    let middle_id = parsed(&middle).issuer_id();
    assert_eq!(
        of(&|list| list.deny_serial(middle_id, Serial::of(&[9]), denied())),
        Some(0)
    );
    assert_eq!(
        of(&|list| list.deny_serial(middle_id, Serial::of(&[8]), denied())),
        None
    );
    let root_id = parsed(&root).issuer_id();
    assert_eq!(
        of(&|list| list.deny_serial(root_id, parsed(&middle).serial(), denied())),
        Some(1)
    );
    assert_eq!(of(&|_| ()), None);
}

#[test]
fn a_ca_of_the_hub_is_revoked_by_the_one_that_has_issued_it_and_by_no_namesake() {
    let (root, namesake) = (Ca::revoking("root"), Ca::revoking("root"));
    let mut params = Ca::revoking_params("middle");
    params.serial_number = Some(SerialNumber::from_slice(&[5]));
    let middle = root.below_with(params);
    for (issuer, is_revoked) in [(&root, true), (&namesake, false)] {
        let mut revocations = Revocations::default();
        revocations.add_list(kept(read(&issuer.crl(list(1, &[&[5]])), issuer).unwrap(), issuer));
        let (issuer, certificate) = (parsed(issuer), parsed(&middle));
        let by = certificate.revoked([&issuer, &certificate].into_iter(), &revocations);
        assert_eq!(by.is_some(), is_revoked);
        let Some(by) = by else { continue };
        let mut cas = hub(&[&middle]);
        assert!(decide(&[middle.leaf("dev-1")], &cas).is_ok());
        cas.revoke(certificate.fingerprints().sha256, by);
        let refusal = decide(&[middle.leaf("dev-1")], &cas).unwrap_err();
        assert_eq!(refusal.reason(), RefusalReason::CertificateRevoked, "{refusal}");
    }
}

#[test]
fn a_renewed_ca_with_its_key_is_the_same_issuer() {
    let root = Ca::revoking("root");
    let mut params = root.params.clone();
    params.not_after = date_time_ymd(2045, 1, 1);
    let renewed = params.self_signed(&root.key).unwrap();
    let renewed = CaCertificate::parse(renewed.der()).unwrap();
    assert_ne!(renewed.fingerprints(), parsed(&root).fingerprints());
    assert_eq!(renewed.issuer_id(), parsed(&root).issuer_id());
    assert!(Crl::read(&root.crl(list(1, &[])), &renewed, MOST, NOW).is_ok());
}

#[test]
fn a_list_is_read_from_pem_and_der_and_its_scope_may_be_the_certificates_of_users() {
    let ca = Ca::revoking("root");
    let mut params = list(7, &[&[1], &[0x00, 0x80], &[1]]);
    params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
        distribution_point: CrlDistributionPoint {
            uris: vec!["http://localhost/crl".to_owned()],
        },
        scope: Some(CrlScope::UserCertsOnly),
    });
    let issuer = Issuer::from_params(&ca.params, &ca.key);
    let signed = params.signed_by(&issuer).unwrap();
    for given in [signed.der().to_vec(), signed.pem().unwrap().into_bytes()] {
        let crl = read(&read_crl(&given).unwrap(), &ca).unwrap();
        assert_eq!((crl.entries(), crl.number.to_string().as_str()), (2, "7"));
        assert_eq!(crl.next_update, UnixMillis(NOW.0 + 3_600_000));
    }
    let two = signed.pem().unwrap().repeat(2);
    assert!(matches!(read_crl(two.as_bytes()), Err(CrlError::Unreadable(_))));
    for text in [
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN X509 CRL-----\n!",
    ] {
        assert!(read_crl(text.as_bytes()).is_err());
    }
}

#[test]
fn the_number_of_a_list_is_compared_as_a_number() {
    let number = |bytes: &[u8]| CrlNumber::of(bytes);
    assert!(number(&[0xff]).is_before(&number(&[1, 0])));
    assert!(number(&[]).is_before(&number(&[1])));
    assert!(!number(&[0, 0, 1]).is_before(&number(&[1])));
    assert!(!number(&[2]).is_before(&number(&[1])));
    assert_eq!(number(&[1, 0]).to_string(), "256");
    assert_eq!(number(&[1; 20]).to_string(), format!("0x{}", "01".repeat(20)));
}

#[test]
fn a_serial_number_is_written_as_tools_write_it() {
    for (text, bytes) in [
        ("00", &[][..]),
        ("01", &[0, 1]),
        ("7F01", &[0x7f, 1]),
        ("80", &[0, 0x80]),
    ] {
        assert_eq!(Serial::of(bytes).to_string(), text);
        assert_eq!(Serial::parse(text), Some(Serial::of(bytes)));
    }
    assert_eq!(Serial::parse("7f:01"), Serial::parse("7F01"));
    assert_eq!(Serial::parse("1"), Serial::parse("01"));
    for text in ["", "0x01", "zz", "-1", &"1".repeat(41), &"1".repeat(5000)] {
        assert_eq!(Serial::parse(text), None, "{text}");
    }
    // Longer ones than the standard allows stay distinct all the same.
    assert_ne!(Serial::of(&[1; 30]), Serial::of(&[1; 31]));
}

#[test]
fn a_list_of_a_hundred_thousand_entries_is_two_megabytes_and_found_by_search() {
    let ca = Ca::revoking("root");
    let numbers: Vec<[u8; 4]> = (1..=100_000_u32)
        .map(|n| n.wrapping_mul(0x9e37_79b1) | 1 << 30)
        .map(u32::to_be_bytes)
        .collect();
    let serials: Vec<&[u8]> = numbers.iter().map(|number| &number[..]).collect();
    let der = ca.crl(list(1, &serials));
    let crl = read(&der, &ca).unwrap();
    assert!(crl.entries() > 90_000);
    assert_eq!(crl.serials.len(), crl.entries() * SERIAL_BYTES);
    assert_eq!(
        Crl::read(&der, &parsed(&ca), 50_000, NOW).unwrap_err(),
        CrlError::TooMany(50_000)
    );
    let mut revocations = Revocations::default();
    revocations.add_list(kept(crl, &ca));
    let id = parsed(&ca).issuer_id();
    for serial in &serials {
        assert!(revocations.of_serial(id, Serial::of(serial)).is_some());
    }
    assert!(revocations.of_serial(id, Serial::of(&[1, 2, 3])).is_none());
}

/// A list whose signed part `change` has rewritten, signed again.
fn resigned(ca: &Ca, der: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    use rcgen::SigningKey as _;
    let signed = crate::x509::der::Signed::read(der).unwrap();
    let content = change(signed.message.content.to_vec());
    let message = sequence(0x30, &content);
    let signature = ca.key.sign(&message).unwrap();
    // ecdsa-with-SHA256.
    let algorithm = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let bits = sequence(0x03, &[vec![0], signature].concat());
    sequence(0x30, &[message, algorithm.to_vec(), bits].concat())
}

fn sequence(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let head = match content.len() {
        short @ 0..=0x7f => vec![tag, u8::try_from(short).unwrap()],
        _ => [
            vec![tag, 0x80 | u8::try_from(4 - zeros).unwrap()],
            length[zeros..].to_vec(),
        ]
        .concat(),
    };
    [head, content.to_vec()].concat()
}

/// One extension: id-ce with this number.
fn extension(number: u8, is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[0x01, 0x01, 0xff] } else { &[] };
    let parts = [&[0x06, 0x03, 0x55, 0x1d, number], critical, &sequence(0x04, value)].concat();
    sequence(0x30, &parts)
}

/// `content` of a list with exactly these extensions.
fn with_extensions(content: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    // rcgen writes them last.
    let mut rest = content;
    let mut kept = Vec::new();
    while let Some(element) = crate::x509::der::element(&mut rest) {
        if element.tag != 0xa0 {
            kept.extend_from_slice(element.whole);
        }
    }
    [kept, sequence(0xa0, &sequence(0x30, &extensions.concat()))].concat()
}

/// Whether a list is refused for the right reason.
type Expected = fn(&CrlError) -> bool;

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that a refusal takes")]
fn hostile_lists_are_refused_for_the_right_reason_and_cheaply() {
    let ca = Ca::revoking("root");
    let good = ca.crl(list(7, &[&[1], &[2]]));
    assert!(read(&good, &ca).is_ok());
    let number = extension(20, false, &[0x02, 0x01, 0x07]);
    let with = |extensions: &[Vec<u8>]| resigned(&ca, &good, |content| with_extensions(&content, extensions));
    assert!(
        read(&with(std::slice::from_ref(&number)), &ca).is_ok(),
        "the tool works"
    );

    let mut cases: Vec<(String, Vec<u8>, Expected)> = Vec::new();
    let mut case = |what: &str, der: Vec<u8>, expected: Expected| cases.push((what.to_owned(), der, expected));
    let is_unreadable: Expected = |error| matches!(error, CrlError::Unreadable(_));

    // Size and form.
    case("too large", vec![0x30; 17 << 20], |error| {
        matches!(error, CrlError::TooLarge(_))
    });
    case("nothing", vec![], is_unreadable);
    case(
        "an endless length",
        vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        is_unreadable,
    );
    case(
        "an indefinite length",
        [vec![0x30, 0x80], good.clone(), vec![0, 0]].concat(),
        is_unreadable,
    );
    case("nested sequences", [0x30, 0x82].repeat(100_000), is_unreadable);
    case("bytes behind it", [good.clone(), vec![0]].concat(), is_unreadable);
    case("a certificate", ca.der(), is_unreadable);
    for cut in 0..good.len() {
        case(&format!("cut after {cut} bytes"), good[..cut].to_vec(), is_unreadable);
    }

    // What the hub does not combine.
    let delta = extension(27, true, &[0x02, 0x01, 0x01]);
    case("a delta list", with(&[number.clone(), delta]), |error| {
        *error == CrlError::Delta
    });
    let uri = sequence(0xa0, &sequence(0xa0, &sequence(0x86, b"http://localhost/crl")));
    let point = |flags: &[u8]| extension(28, true, &sequence(0x30, &[&uri[..], flags].concat()));
    case(
        "an indirect list",
        with(&[number.clone(), point(&[0x84, 1, 0xff])]),
        |error| *error == CrlError::Indirect,
    );
    case(
        "some reasons",
        with(&[number.clone(), point(&[0x83, 2, 4, 0x10])]),
        |error| *error == CrlError::SomeReasons,
    );
    case(
        "attribute certificates",
        with(&[number.clone(), point(&[0x85, 1, 0xff])]),
        is_unreadable,
    );
    case(
        "an unknown critical extension",
        with(&[number.clone(), extension(99, true, &[5, 0])]),
        is_unreadable,
    );
    case(
        "a distribution point without a name",
        with(&[number.clone(), extension(28, true, &[0x30, 0])]),
        is_unreadable,
    );
    case("no number", with(&[]), |error| {
        matches!(error, CrlError::NoNumber | CrlError::Unreadable(_))
    });
    case(
        "an unrelated extension alone",
        with(&[extension(35, false, &[0x30, 0])]),
        |error| *error == CrlError::NoNumber,
    );
    case("two numbers", with(&[number.clone(), number.clone()]), |error| {
        matches!(error, CrlError::Unreadable(_))
    });
    case(
        "a number of 21 bytes",
        with(&[extension(20, false, &sequence(0x02, &[1; 21]))]),
        is_unreadable,
    );
    case(
        "a negative number",
        with(&[extension(20, false, &[0x02, 0x01, 0x80])]),
        is_unreadable,
    );
    case(
        "version 1",
        resigned(&ca, &good, |mut content| {
            content.drain(..3);
            content
        }),
        is_unreadable,
    );
    case(
        "version 3",
        resigned(&ca, &good, |mut content| {
            content[2] = 2;
            content
        }),
        is_unreadable,
    );
    // An entry of another issuer: certificateIssuer, critical.
    let foreign = [
        sequence(0x02, &[9]),
        sequence(0x17, b"291231230000Z"),
        sequence(0x30, &extension(29, true, &sequence(0x30, &sequence(0x86, b"x")))),
    ]
    .concat();
    let with_entries = |entries: Vec<u8>| {
        resigned(&ca, &good, |content| {
            let mut rest = &content[..];
            let mut parts = Vec::new();
            for at in 0.. {
                let Some(element) = crate::x509::der::element(&mut rest) else {
                    break;
                };
                // After version, algorithm, issuer and two times.
                parts.extend(if at == 5 {
                    sequence(0x30, &entries)
                } else {
                    element.whole.to_vec()
                });
            }
            parts
        })
    };
    case(
        "an entry of another issuer",
        with_entries(sequence(0x30, &foreign)),
        |error| matches!(error, CrlError::Indirect | CrlError::Unreadable(_)),
    );
    case(
        "an entry without a date",
        with_entries(sequence(0x30, &[2, 1, 9])),
        is_unreadable,
    );
    case(
        "an entry that is cut",
        with_entries(vec![0x30, 0x20, 2, 1, 9]),
        is_unreadable,
    );
    case("entries of junk", with_entries(vec![0xff; 64]), is_unreadable);
    let small = sequence(0x30, &[sequence(0x02, &[9]), sequence(0x17, b"291231230000Z")].concat());
    case(
        "more entries than allowed",
        with_entries(small.repeat(MOST + 1)),
        |error| *error == CrlError::TooMany(MOST),
    );

    // Whose it is.
    case("of another CA", Ca::revoking("other").crl(list(7, &[])), |error| {
        *error == CrlError::Issuer
    });
    case("of a namesake", Ca::revoking("root").crl(list(7, &[])), |error| {
        *error == CrlError::Signature
    });
    // Dates.
    let mut early = list(7, &[]);
    early.this_update = at(400);
    case("made in the future", ca.crl(early), |error| {
        matches!(error, CrlError::NotYet { .. })
    });
    let mut ended = list(7, &[]);
    ended.next_update = at(-1);
    case("ended", ca.crl(ended), |error| matches!(error, CrlError::Ended { .. }));

    let count = cases.len() + good.len();
    for (what, der, expected) in &cases {
        let begun = Instant::now();
        let error = read(der, &ca).expect_err(what);
        assert!(expected(&error), "{what}: {error}");
        let text = error.to_string();
        assert!(text.len() < 600 && !text.contains(['\0', '\n']), "{what}: {text:?}");
        assert!(begun.elapsed() < BOUND, "{what}");
    }
    // One byte of everything, changed.
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 0x55;
        assert!(read(&changed, &ca).is_err(), "byte {at}");
    }
    // A CA whose key usage does not have cRLSign.
    let mut params = ca.params.clone();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let silent = CaCertificate::parse(params.self_signed(&ca.key).unwrap().der()).unwrap();
    assert_eq!(Crl::read(&good, &silent, MOST, NOW), Err(CrlError::Usage));
    println!("hostile revocation lists: {} cases", count + 1);
    assert!(count > 300, "{count}");
}
