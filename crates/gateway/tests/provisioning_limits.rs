//! What a provisioning service refuses whatever the protocol: certificates that are expired or of a foreign chain, and endless polls.
//! Over HTTPS, on a simulated cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use holdfast_auth::Key;
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_model::{CertificateChain, DeviceId, IdentityId, NodeId, RefusalReason};
use holdfast_registry::{
    AttestationWrite, Authentication, AuthenticationWrite, CertificateSource, EnrollmentContent, EnrollmentKind,
    EnrollmentOperation, IdentityContent, IdentityWrite, IfMatch, Thumbprint, WriteOperation, X509Attestation,
};
use holdfast_simulation::simulate;
use holdfast_testkit::eventually;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use support::factory::Factory;
use support::https::{Answer, Https};

const VERSION: &str = "api-version=2019-03-31";

/// A CA with its key.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Ca {
    fn root(common_name: &str) -> Self {
        let (mut params, key) = (params(common_name), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    /// A device's certificate that ends with `year`.
    fn device(&self, common_name: &str, year: i32) -> Certificate {
        let mut params = params(common_name);
        params.not_after = date_time_ymd(year, 1, 1);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap()
    }
}

fn chain(certificate: &Certificate) -> Option<CertificateChain> {
    CertificateChain::new([Bytes::copy_from_slice(certificate.der())])
}

async fn put(factory: &Factory, id: &str, certificates: Option<CertificateChain>, token: &str) -> Answer {
    let mut https = Https::open(&factory.bench, NodeId(1), certificates);
    let path = format!("/{}/registrations/{id}/register?{VERSION}", factory.scope);
    https.request("PUT", &path, token, &[], b"{}").await
}

/// A group of devices below `own`, which the hub knows by the name `own`.
async fn enroll_line(factory: &Factory, own: &Ca) {
    let registry = factory.registry();
    registry
        .put_authority("own", own.certificate.der(), Some(true), None)
        .await
        .unwrap();
    let attestation = AttestationWrite::X509(Some(X509Attestation {
        source: CertificateSource::CaReferences,
        primary: Some(Bytes::from_static(b"own")),
        secondary: None,
    }));
    let create = EnrollmentOperation::Create(attestation, EnrollmentContent::default());
    factory.enroll(EnrollmentKind::Group, "line", create).await;
    eventually("the CA", || registry.authorities().get("own").is_some()).await;
}

#[test]
fn an_expired_certificate_and_a_foreign_chain_are_refused() {
    simulate(async {
        let factory = Factory::start().await;
        let (own, foreign) = (Ca::root("own"), Ca::root("foreign"));
        enroll_line(&factory, &own).await;
        let good = put(&factory, "cert-1", chain(&own.device("cert-1", 2999)), "").await;
        assert_eq!(good.status, 202, "{good:?}");
        // An individual enrollment pins a certificate, whose dates count all the same.
        let old = own.device("cert-3", 1999);
        let pinned = AttestationWrite::X509(Some(X509Attestation {
            source: CertificateSource::Client,
            primary: Some(Bytes::copy_from_slice(old.der())),
            secondary: None,
        }));
        let create = EnrollmentOperation::Create(pinned, EnrollmentContent::default());
        factory.enroll(EnrollmentKind::Individual, "cert-3", create).await;
        for (id, certificate, reason) in [
            ("cert-1", own.device("cert-1", 1999), RefusalReason::CertificateTime),
            ("cert-3", old, RefusalReason::CertificateTime),
            ("cert-2", foreign.device("cert-2", 2999), RefusalReason::Chain),
            ("cert-4", own.device("cert-5", 2999), RefusalReason::CommonName),
        ] {
            let answer = put(&factory, id, chain(&certificate), "").await;
            assert_eq!((answer.status, answer.number()), (401, 401_000), "{id}");
            let last = factory.bench.diagnosis(id).await.pop().unwrap();
            assert_eq!(last.reason, reason, "{id}");
        }
    });
}

#[test]
fn a_device_of_a_group_is_known_by_its_leaf_unless_the_hub_says_otherwise() {
    simulate(async {
        let factory = Factory::start().await;
        let own = Ca::root("own");
        enroll_line(&factory, &own).await;
        let registry = factory.registry();
        let id = IdentityId::device(DeviceId::parse("cert-1").unwrap());
        // A renewed certificate takes the place of the earlier one.
        for year in [2998, 2999] {
            let leaf = own.device("cert-1", year);
            let answer = put(&factory, "cert-1", chain(&leaf), "").await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let identity = registry.get(&id).await.unwrap().unwrap();
            let known = Thumbprint::parse(&CertificateFingerprints::of(leaf.der()).sha256_hex()).unwrap();
            let Authentication::SelfSigned(thumbprints) = &identity.authentication else {
                panic!("{:?}", identity.authentication);
            };
            assert_eq!((&thumbprints.primary, &thumbprints.secondary), (&known, &None));
        }
        let content = IdentityContent {
            authentication: Some(AuthenticationWrite::CertificateAuthority),
            ..IdentityContent::default()
        };
        let operation = WriteOperation::Update(IfMatch::Any, content);
        registry
            .write(IdentityWrite {
                id: id.clone(),
                operation,
            })
            .await
            .unwrap();
        let answer = put(&factory, "cert-1", chain(&own.device("cert-1", 2999)), "").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let identity = registry.get(&id).await.unwrap().unwrap();
        assert_eq!(identity.authentication, Authentication::CertificateAuthority);
    });
}

#[test]
fn a_device_is_found_in_the_group_of_its_neighbours() {
    simulate(async {
        let factory = Factory::start().await;
        let key = |group: usize| Key::from_bytes(vec![u8::try_from(group).unwrap(); 32]).unwrap();
        for group in 0..20 {
            let attestation = AttestationWrite::SymmetricKey {
                primary: Some(key(group)),
                secondary: None,
            };
            let create = EnrollmentOperation::Create(attestation, EnrollmentContent::default());
            let name = format!("line-{group:02}");
            factory.enroll(EnrollmentKind::Group, &name, create).await;
        }
        let registry = factory.registry();
        for (id, group) in [("b-1", 7), ("d-1", 19), ("b-2", 7), ("B-3", 7), ("c", 0)] {
            let token = factory.token(id, &key(group).derive(id));
            let answer = put(&factory, id, None, &token).await;
            assert_eq!(answer.status, 202, "{id}: {answer:?}");
            let found = registry.registration(id).unwrap().unwrap();
            assert_eq!(found.group, Some(format!("line-{group:02}")), "{id}");
        }
        for (id, groups) in [
            ("a", &["line-07", "line-00"][..]),
            ("b-4", &["line-07", "line-00", "line-19"]),
            ("d-2", &["line-19", "line-00"]),
        ] {
            assert_eq!(registry.groups_near(id).unwrap(), groups, "{id}");
        }
        let wrong = factory.token("b-4", &key(7));
        assert_eq!(put(&factory, "b-4", None, &wrong).await.status, 401);
    });
}

#[test]
fn endless_polls_are_throttled_for_the_device_alone() {
    simulate(async {
        let factory = Factory::start().await;
        let key = factory.group_key.derive("SN-1");
        let token = factory.token("SN-1", &key);
        let answer = put(&factory, "SN-1", None, &token).await.json();
        let operation = answer["operationId"].as_str().unwrap();
        let path = format!("/{}/registrations/SN-1/operations/{operation}?{VERSION}", factory.scope);
        let mut https = Https::open(&factory.bench, NodeId(1), None);
        // Someone without the key uses up nothing of it.
        for _ in 0..5 {
            let wrong = factory.token("SN-1", &factory.group_key);
            assert_eq!(https.request("GET", &path, &wrong, &[], b"").await.status, 401);
        }
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.push(https.request("GET", &path, &token, &[], b"").await);
        }
        let throttled = answers.iter().position(|answer| answer.status == 429).unwrap();
        assert!(answers[..throttled].iter().all(|answer| answer.status == 200));
        assert_eq!((throttled, answers[throttled].number()), (5, 429_001));
        let pause: u64 = answers[throttled].header("retry-after").unwrap().parse().unwrap();
        assert!((2..=5).contains(&pause));
        // Registering is not polling.
        assert_eq!(put(&factory, "SN-1", None, &token).await.status, 202);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let path = format!("/{}/registrations/SN-1?{VERSION}", factory.scope);
        assert_eq!(https.request("POST", &path, &token, &[], b"").await.status, 200);
    });
}
