//! Hostile chains and certificates: refused for the right reason, in bounded time.

use std::time::{Duration, Instant};

use rcgen::string::{BmpString, TeletexString};
use rcgen::{CustomExtension, PKCS_ED25519};

use super::*;

/// Far more than any of the cases may take, and far less than unbounded work would.
const BOUND: Duration = Duration::from_secs(5);

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that a refusal takes")]
fn hostile_chains_are_refused_for_the_right_reason_and_cheaply() {
    let root = Ca::root("root");
    let cas = hub(&[&root]);
    let mut cases: Vec<(String, Vec<Vec<u8>>, RefusalReason)> = Vec::new();
    let mut case = |what: &str, chain: Vec<Vec<u8>>, reason| cases.push((what.to_owned(), chain, reason));
    let good = root.leaf("dev-1");

    // Size.
    case("a chain of 100", vec![good.clone(); 100], RefusalReason::Malformed);
    case("a chain of 11", vec![good.clone(); 11], RefusalReason::Malformed);
    let mut huge = leaf_params("dev-1");
    let filler = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; 64 * 1024]);
    huge.custom_extensions = vec![filler];
    case(
        "a certificate of 64 KiB",
        vec![root.leaf_with(&huge)],
        RefusalReason::Malformed,
    );
    case(
        "an issuer of 64 KiB",
        vec![good.clone(), vec![0x30; 65_536]],
        RefusalReason::Malformed,
    );
    case(
        "40 KiB in all",
        vec![good.clone(), vec![1; 15_000], vec![2; 15_000], vec![3; 10_000]],
        RefusalReason::Malformed,
    );

    // Form.
    for cut in 0..good.len() {
        case(
            &format!("cut after {cut} bytes"),
            vec![good[..cut].to_vec()],
            RefusalReason::Malformed,
        );
    }
    case(
        "bytes behind it",
        vec![[good.clone(), vec![0]].concat()],
        RefusalReason::Malformed,
    );
    case(
        "no DER",
        vec![b"-----BEGIN CERTIFICATE-----".to_vec()],
        RefusalReason::Malformed,
    );
    case(
        "an endless length",
        vec![vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]],
        RefusalReason::Malformed,
    );
    case(
        "an indefinite length",
        vec![[vec![0x30, 0x80], good.clone(), vec![0, 0]].concat()],
        RefusalReason::Malformed,
    );
    case(
        "nested sequences",
        vec![[0x30, 0x82].repeat(4000)],
        RefusalReason::Malformed,
    );
    case(
        "an issuer that is none",
        vec![good.clone(), b"junk".to_vec()],
        RefusalReason::Malformed,
    );
    case(
        "version 1 by a stranger",
        vec![fixture!("version-1")],
        RefusalReason::Chain,
    );

    // Names.
    for wrong in [
        "dev-2",
        "DEV-1",
        "dev-1 ",
        " dev-1",
        "dev-1\0",
        "dev-1\0.example.com",
        "dev-1/m",
        "dev",
        "",
        "dev-11",
        "dev‑1",
        "dev-1\u{200b}",
        "d\u{435}v-1",
        "CN=dev-1",
        "*",
        "dev-*",
        "dev-1,CN=x",
        "dev-1\n",
    ] {
        case(
            &format!("named {wrong:?}"),
            vec![root.leaf(wrong)],
            RefusalReason::CommonName,
        );
    }
    let mut named = |what: &str, subject: DistinguishedName| {
        let mut params = leaf_params("x");
        params.distinguished_name = subject;
        case(what, vec![root.leaf_with(&params)], RefusalReason::CommonName);
    };
    named(
        "UTF-16",
        name(DnValue::BmpString(BmpString::try_from("dev-1").unwrap())),
    );
    named(
        "Teletex",
        name(DnValue::TeletexString(TeletexString::try_from("dev-1").unwrap())),
    );
    named("no name", DistinguishedName::new());
    let mut only_organisation = DistinguishedName::new();
    only_organisation.push(DnType::OrganizationName, "dev-1");
    named("an organisation", only_organisation);
    for (first, second) in [("dev-1", "dev-2"), ("dev-2", "dev-1"), ("dev-1", "dev-1")] {
        let mut two = name(first);
        two.push(DnType::CustomDnType(vec![2, 5, 4, 3]), second);
        named("two names", two);
    }

    // Time.
    let dated = |mut params: CertificateParams, from, to| {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params
    };
    for (what, from, to) in [
        ("expired", 2020, 2029),
        ("not yet valid", 2031, 2040),
        ("backwards", 2031, 2029),
    ] {
        let leaf = root.leaf_with(&dated(leaf_params("dev-1"), from, to));
        case(what, vec![leaf], RefusalReason::CertificateTime);
        let middle = root.below_with(dated(ca_params("middle"), from, to));
        case(
            &format!("its issuer is {what}"),
            vec![middle.leaf("dev-1"), middle.der()],
            RefusalReason::CertificateTime,
        );
    }

    // Purpose.
    case(
        "a CA as a device",
        vec![
            root.sign(&ca_params("dev-1"), &key(&PKCS_ECDSA_P256_SHA256))
                .der()
                .to_vec(),
        ],
        RefusalReason::Chain,
    );
    for purpose in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsagePurpose::OcspSigning,
    ] {
        let mut params = leaf_params("dev-1");
        params.extended_key_usages = vec![purpose];
        case(
            "for another purpose",
            vec![root.leaf_with(&params)],
            RefusalReason::Chain,
        );
    }
    let mut params = leaf_params("middle");
    let device = root.below_with(params.clone());
    case(
        "issued by a device",
        vec![device.leaf("dev-1"), device.der()],
        RefusalReason::Chain,
    );
    params = ca_params("middle");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    let signer = root.below_with(params);
    case(
        "its issuer may not sign certificates",
        vec![signer.leaf("dev-1"), signer.der()],
        RefusalReason::Chain,
    );
    params = ca_params("middle");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let web = root.below_with(params);
    case(
        "its issuer is for servers",
        vec![web.leaf("dev-1"), web.der()],
        RefusalReason::Chain,
    );
    let mut params = leaf_params("dev-1");
    let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], vec![5, 0]);
    unknown.set_criticality(true);
    params.custom_extensions = vec![unknown];
    case(
        "an unknown critical extension",
        vec![root.leaf_with(&params)],
        RefusalReason::Chain,
    );

    // Path.
    let mut params = ca_params("middle");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = root.below_with(params);
    let beyond = last.below("beyond");
    case(
        "beyond the path length of an issuer",
        vec![beyond.leaf("dev-1"), beyond.der(), last.der()],
        RefusalReason::Chain,
    );
    let mut deep = vec![];
    let mut lowest = root.below("level-0");
    deep.insert(0, lowest.der());
    for level in 1..8 {
        lowest = lowest.below(&format!("level-{level}"));
        deep.insert(0, lowest.der());
    }
    deep.insert(0, lowest.leaf("dev-1"));
    case("eight issuers", deep, RefusalReason::Chain);
    let other = Ca::root("other");
    case("another CA", vec![other.leaf("dev-1")], RefusalReason::Chain);
    case(
        "another CA that is sent",
        vec![other.leaf("dev-1"), other.der()],
        RefusalReason::Chain,
    );
    let namesake = Ca::root("root");
    case(
        "a CA with the name of ours",
        vec![namesake.leaf("dev-1"), namesake.der()],
        RefusalReason::Chain,
    );
    let fake = namesake.below("middle");
    case(
        "below a namesake",
        vec![fake.leaf("dev-1"), fake.der()],
        RefusalReason::Chain,
    );
    let self_signed = leaf_params("dev-1").self_signed(&key(&PKCS_ECDSA_P256_SHA256)).unwrap();
    case("self-signed", vec![self_signed.der().to_vec()], RefusalReason::Chain);
    // a is issued by b, b by a.
    let (a_params, b_params) = (ca_params("a"), ca_params("b"));
    let a = Ca {
        certificate: a_params.self_signed(&root.key).unwrap(),
        params: a_params,
        key: key(&PKCS_ECDSA_P256_SHA256),
    };
    let b = a.below_with(b_params);
    let a_by_b = b.sign(&a.params, &a.key);
    case(
        "a circle",
        vec![a.leaf("dev-1"), a_by_b.der().to_vec(), b.der()],
        RefusalReason::Chain,
    );
    case(
        "issued by itself",
        vec![a.leaf("dev-1"), a.leaf_with(&ca_params("a"))],
        RefusalReason::Chain,
    );

    // Algorithms.
    let fixtures = CaSet::new([Arc::new(CaCertificate::parse(&fixture!("ca")).unwrap())]);
    for (what, leaf) in [
        ("MD5", fixture!("md5")),
        ("SHA-1", fixture!("sha1")),
        ("RSA with 1024 bits", fixture!("rsa-1024")),
    ] {
        assert_eq!(
            decide(&[leaf], &fixtures).unwrap_err().reason(),
            RefusalReason::Chain,
            "{what}"
        );
    }
    let ed = root.sign(&leaf_params("dev-1"), &key(&PKCS_ED25519));
    case("Ed25519", vec![ed.der().to_vec()], RefusalReason::Chain);

    // One byte of everything, changed: refused, or not a change that matters (an unused bit).
    for (original, cas) in [(&good, &cas), (&fixture!("version-1"), &fixtures)] {
        decide(std::slice::from_ref(original), cas).unwrap();
        for at in 0..original.len() {
            let mut changed = original.clone();
            changed[at] ^= 0x55;
            let begun = Instant::now();
            assert!(decide(&[changed], cas).is_err(), "byte {at}");
            assert!(begun.elapsed() < BOUND);
        }
    }
    assert!(cases.len() + good.len() > 600, "{}", cases.len());
    for (what, chain, reason) in &cases {
        let begun = Instant::now();
        let refusal = decide(chain, &cas).expect_err(what);
        assert_eq!(refusal.reason(), *reason, "{what}: {refusal}");
        let text = refusal.to_string();
        assert!(
            text.len() < 2000 && !text.contains(['\0', '\n', '\u{200b}']),
            "{what}: {text:?}"
        );
        assert!(begun.elapsed() < BOUND, "{what}");
    }
    println!("hostile chains: {} cases", cases.len() + good.len());
    assert!(decide(&[good], &cas).is_ok());
}
