//! Devices and modules with certificates, on a simulated cluster: TLS has proved the possession of the key, and the stream
//! brings the chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use holdfast_amqp::{AttachSpec, ClientSasl};
use holdfast_auth::Key;
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_device_hub::AuditRecord;
use holdfast_model::{CertificateChain, IdentityId, ModuleId, NodeId, RefusalReason, UnixMillis};
use holdfast_registry::{
    AuthenticationWrite, Authorities, IdentityContent, IdentityWrite, IfMatch, RevokedCertificate, Thumbprint,
    Thumbprints, WriteOperation,
};
use holdfast_simulation::{HOST, identity, simulate};
use holdfast_testkit::eventually;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use support::amqp::{Amqp, Verdict, address};
use support::https::Https;
use support::{Bench, DEVICE, Device, NODE};
use time::OffsetDateTime;
use tokio::time::Instant;

/// The CONNACK of an accepted connection, and of a certain refusal.
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const REFUSED: [u8; 4] = [0x20, 2, 0, 5];

/// How long a session stays after its certificate has ended: the default of `device_hub.certificate_grace`.
const GRACE: Duration = Duration::from_secs(300);

fn certificate(common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

/// A CA with its key.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

impl Ca {
    fn root(common_name: &str) -> Self {
        let (params, key) = (Self::params(common_name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn params(common_name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        params
            .signed_by(key, &Issuer::from_params(&self.params, &self.key))
            .unwrap()
    }

    fn below(&self, common_name: &str) -> Self {
        let (params, key) = (Self::params(common_name), KeyPair::generate().unwrap());
        let certificate = self.sign(&params, &key);
        Self {
            params,
            key,
            certificate,
        }
    }

    fn device(&self, common_name: &str) -> Certificate {
        self.numbered(common_name, &[1])
    }

    fn numbered(&self, common_name: &str, serial: &[u8]) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        self.sign(&params, &KeyPair::generate().unwrap())
    }

    /// A revocation list that is made at `now` and lasts for `seconds`.
    fn crl(&self, number: u64, serials: &[&[u8]], now: UnixMillis, seconds: i64) -> Bytes {
        let at = |seconds: i64| {
            let now = i64::try_from(now.0 / 1000).unwrap();
            OffsetDateTime::from_unix_timestamp(now + seconds).unwrap()
        };
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: at(-1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: at(-1),
            next_update: at(seconds),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap();
        Bytes::copy_from_slice(signed.der())
    }
}

fn chain(certificates: &[&Certificate]) -> CertificateChain {
    let ders = certificates
        .iter()
        .map(|certificate| Bytes::copy_from_slice(certificate.der()));
    CertificateChain::new(ders).unwrap()
}

fn sha1(certificate: &Certificate) -> Thumbprint {
    Thumbprint::parse(&CertificateFingerprints::of(certificate.der()).sha1_hex()).unwrap()
}

fn sha256(certificate: &Certificate) -> Thumbprint {
    Thumbprint::parse(&CertificateFingerprints::of(certificate.der()).sha256_hex()).unwrap()
}

fn self_signed(primary: Thumbprint, secondary: Option<Thumbprint>) -> AuthenticationWrite {
    AuthenticationWrite::SelfSigned(Some(Thumbprints { primary, secondary }))
}

/// A hub whose device authenticates as a test wants.
struct Hub(Bench);

impl Hub {
    async fn start() -> Self {
        Self(Bench::start().await)
    }

    async fn write(&self, id: &IdentityId, authentication: AuthenticationWrite) {
        let content = IdentityContent {
            authentication: Some(authentication),
            ..IdentityContent::default()
        };
        let write = IdentityWrite {
            id: id.clone(),
            operation: WriteOperation::CreateOrUpdate(IfMatch::Any, content),
        };
        let written = self.0.cluster.hub(NodeId(NODE)).registry().write(write).await.unwrap();
        let etag = written.identity.unwrap().etag;
        eventually("the write everywhere", || {
            let nodes = self.0.cluster.nodes.values();
            nodes.into_iter().all(|node| {
                let here = node.hub.registry().identity(id).unwrap();
                here.is_some_and(|here| here.etag == etag)
            })
        })
        .await;
    }

    /// Registers a CA, and waits until every node has it.
    async fn register(&self, name: &str, ca: &Ca, is_verified: bool) {
        let registry = self.0.cluster.hub(NodeId(NODE)).registry();
        let put = registry.put_authority(name, ca.certificate.der(), Some(is_verified), Some(&IfMatch::Any));
        let etag = match put.await {
            Ok((_, replaced)) => replaced.etag,
            Err(_) => {
                registry
                    .put_authority(name, ca.certificate.der(), Some(is_verified), None)
                    .await
                    .unwrap()
                    .1
                    .etag
            }
        };
        self.everywhere(|found| found.get(name).is_some_and(|found| found.etag == etag))
            .await;
    }

    async fn unregister(&self, name: &str) {
        let registry = self.0.cluster.hub(NodeId(NODE)).registry();
        registry.remove_authority(name, &IfMatch::Any).await.unwrap();
        self.everywhere(|found| found.get(name).is_none()).await;
    }

    async fn everywhere(&self, holds: impl Fn(&Authorities) -> bool) {
        eventually("the CAs everywhere", || {
            let nodes = self.0.cluster.nodes.values();
            nodes.into_iter().all(|node| holds(&node.hub.registry().authorities()))
        })
        .await;
    }

    /// What the hub answers to a CONNECT of `id`, with the password that the caller may have.
    async fn connect(
        &self,
        id: &IdentityId,
        shown: Option<&CertificateChain>,
        password: Option<&[u8]>,
    ) -> (Device, Vec<u8>) {
        self.connect_at(NodeId(NODE), id, shown, password).await
    }

    async fn connect_at(
        &self,
        node: NodeId,
        id: &IdentityId,
        shown: Option<&CertificateChain>,
        password: Option<&[u8]>,
    ) -> (Device, Vec<u8>) {
        let mut device = self.0.open_with_certificates(node, shown.cloned());
        let username = format!("{HOST}/{id}/?api-version=2021-04-12");
        let client_id = id.to_string();
        let packet = holdfast_mqtt::codec::Packet::Connect(holdfast_mqtt::codec::Connect {
            clean: true,
            keep_alive: 0,
            client_id: &client_id,
            username: Some(&username),
            password,
            ..holdfast_mqtt::codec::Connect::default()
        });
        device.send(&support::encoded(&packet)).await;
        let connack = device.receive(4).await;
        (device, connack)
    }

    async fn accepts(&self, shown: &CertificateChain) -> Device {
        let (device, connack) = self.connect(&identity(DEVICE), Some(shown), None).await;
        assert_eq!(connack, ACCEPTED);
        device
    }

    async fn refuses(
        &self,
        shown: Option<&CertificateChain>,
        password: Option<&[u8]>,
        reason: RefusalReason,
    ) -> AuditRecord {
        let (_, connack) = self.connect(&identity(DEVICE), shown, password).await;
        assert_eq!(connack, REFUSED);
        self.last(reason).await
    }

    /// The newest record of the device, which must be for `reason`.
    async fn last(&self, reason: RefusalReason) -> AuditRecord {
        let record = self.0.diagnosis(DEVICE).await.pop().unwrap();
        assert_eq!(record.reason, reason, "{record:?}");
        record
    }

    fn token(&self) -> String {
        let now = self.0.cluster.hub(NodeId(NODE)).clock().now().0 / 1000;
        holdfast_auth::sign_identity(
            HOST,
            &identity(DEVICE),
            &Key::from_bytes(vec![7; 32]).unwrap(),
            now + 3600,
        )
    }
}

#[test]
fn a_device_is_known_by_either_thumbprint_in_either_digest() {
    simulate(async {
        let hub = Hub::start().await;
        let (old, new) = (certificate("old", |_| {}), certificate("new", |_| {}));
        for (primary, secondary) in [(sha256(&old), sha1(&new)), (sha1(&new), sha256(&old))] {
            hub.write(&identity(DEVICE), self_signed(primary, Some(secondary)))
                .await;
            hub.accepts(&chain(&[&old])).await;
            // Only the first certificate counts, whatever is behind it.
            hub.accepts(&chain(&[&new, &old])).await;
        }
        hub.write(&identity(DEVICE), self_signed(sha256(&new), None)).await;
        let refused = hub
            .refuses(Some(&chain(&[&old, &new])), None, RefusalReason::Thumbprint)
            .await;
        let detail = refused.detail.unwrap();
        let shown = CertificateFingerprints::of(old.der());
        for part in [
            shown.sha1_hex(),
            shown.sha256_hex(),
            sha256(&new).to_string(),
            "(none)".to_owned(),
        ] {
            assert!(detail.contains(&part), "{detail}");
        }
    });
}

#[test]
fn the_registered_type_decides_which_credential_counts() {
    simulate(async {
        let hub = Hub::start().await;
        let own = certificate("own", |_| {});
        let shown = chain(&[&own]);
        let token = hub.token();
        hub.write(&identity(DEVICE), self_signed(sha256(&own), None)).await;
        hub.refuses(None, Some(token.as_bytes()), RefusalReason::AuthType).await;
        hub.refuses(None, None, RefusalReason::NoCertificate).await;
        // A password is nothing to an identity with certificates, whatever it says.
        for password in [token.as_bytes(), b"SharedAccessSignature sr=x", b"", &[0xff]] {
            let (_device, connack) = hub.connect(&identity(DEVICE), Some(&shown), Some(password)).await;
            assert_eq!(connack, ACCEPTED);
        }
        let keys = holdfast_auth::KeyPair {
            primary: Key::from_bytes(vec![7; 32]).unwrap(),
            secondary: Key::from_bytes(vec![8; 32]).unwrap(),
        };
        hub.write(&identity(DEVICE), AuthenticationWrite::Sas(Some(keys))).await;
        hub.refuses(Some(&shown), None, RefusalReason::AuthType).await;
        // A certificate beside a token changes nothing, for better or worse.
        let (_device, connack) = hub
            .connect(&identity(DEVICE), Some(&shown), Some(token.as_bytes()))
            .await;
        assert_eq!(connack, ACCEPTED);
        hub.refuses(Some(&shown), Some(b"nonsense"), RefusalReason::Malformed)
            .await;
    });
}

#[test]
fn a_module_has_a_certificate_of_its_own() {
    simulate(async {
        let hub = Hub::start().await;
        let (device, module) = (certificate("d", |_| {}), certificate("m", |_| {}));
        hub.write(&identity(DEVICE), self_signed(sha256(&device), None)).await;
        let id = IdentityId {
            module: Some(ModuleId::parse("m").unwrap()),
            ..identity(DEVICE)
        };
        hub.write(&id, self_signed(sha256(&module), None)).await;
        for (shown, expected) in [(&module, ACCEPTED), (&device, REFUSED)] {
            let (_device, connack) = hub.connect(&id, Some(&chain(&[shown])), None).await;
            assert_eq!(connack, expected);
        }
    });
}

#[test]
fn a_certificate_counts_from_its_begin_to_its_end_and_its_session_a_little_longer() {
    simulate(async {
        let hub = Hub::start().await;
        let clock = hub.0.cluster.hub(NodeId(NODE)).clock().clone();
        let at = |seconds: i64| {
            let now = i64::try_from(clock.now().0 / 1000).unwrap();
            OffsetDateTime::from_unix_timestamp(now + seconds).unwrap()
        };
        let future = certificate("x", |params| params.not_before = at(3600));
        let past = certificate("x", |params| params.not_after = date_time_ymd(2020, 1, 1));
        for outdated in [&future, &past] {
            hub.write(&identity(DEVICE), self_signed(sha256(outdated), None)).await;
            let refused = hub
                .refuses(Some(&chain(&[outdated])), None, RefusalReason::CertificateTime)
                .await;
            assert_eq!(refused.code.number(), 401_003);
        }
        let short = certificate("x", |params| params.not_after = at(60));
        hub.write(&identity(DEVICE), self_signed(sha256(&short), None)).await;
        let begun = clock.now();
        let device = hub.accepts(&chain(&[&short])).await;
        assert!(device.rest().await.is_empty());
        let lasted = Duration::from_millis(clock.now().0 - begun.0);
        // Its end, the grace, and what spreads the ends of many.
        assert!(lasted > GRACE + Duration::from_secs(50), "{lasted:?}");
        assert!(lasted < GRACE + Duration::from_secs(300), "{lasted:?}");
        let ended = hub.last(RefusalReason::CertificateTime).await;
        assert_eq!((ended.operation.as_str(), ended.code.number()), ("session", 401_003));
        hub.refuses(Some(&chain(&[&short])), None, RefusalReason::CertificateTime)
            .await;
    });
}

#[test]
fn a_rotation_spares_the_sessions_of_certificates_that_stay() {
    simulate(async {
        let hub = Hub::start().await;
        let (old, new) = (certificate("old", |_| {}), certificate("new", |_| {}));
        hub.write(&identity(DEVICE), self_signed(sha256(&old), None)).await;
        let mut device = hub.accepts(&chain(&[&old])).await;
        // The new one is added, then takes the first place; the digest of the old one changes too.
        hub.write(&identity(DEVICE), self_signed(sha256(&old), Some(sha256(&new))))
            .await;
        hub.write(&identity(DEVICE), self_signed(sha256(&new), Some(sha1(&old))))
            .await;
        device.gets_nothing().await;
        device.send(&support::telemetry(1)).await;
        assert_eq!(device.pubacks(1).await, [1]);
        hub.write(&identity(DEVICE), self_signed(sha256(&new), None)).await;
        assert!(device.rest().await.is_empty());
        hub.last(RefusalReason::Revoked).await;
        let device = hub.accepts(&chain(&[&new])).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        assert!(device.rest().await.is_empty());
    });
}

#[test]
fn what_is_no_certificate_is_refused_with_the_fault() {
    simulate(async {
        let hub = Hub::start().await;
        let own = certificate("own", |_| {});
        hub.write(&identity(DEVICE), self_signed(sha256(&own), None)).await;
        for junk in [
            vec![0x30; 100],
            vec![],
            own.der()[..200].to_vec(),
            [own.der(), &[0][..]].concat(),
            vec![7; 20_000],
        ] {
            let shown = CertificateChain::new([Bytes::from(junk)]).unwrap();
            let refused = hub.refuses(Some(&shown), None, RefusalReason::Malformed).await;
            assert!(refused.detail.is_some());
        }
    });
}

#[test]
fn a_device_of_a_verified_ca_is_known_by_its_common_name() {
    simulate(async {
        let hub = Hub::start().await;
        let root = Ca::root("root");
        let factory = root.below("factory");
        let device = factory.device(DEVICE);
        let full = chain(&[&device, &factory.certificate, &root.certificate]);
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        hub.refuses(Some(&full), None, RefusalReason::Chain).await;
        hub.register("root", &root, false).await;
        hub.refuses(Some(&full), None, RefusalReason::Chain).await;
        hub.register("root", &root, true).await;
        hub.accepts(&full).await;
        hub.accepts(&chain(&[&device, &factory.certificate])).await;
        let alone = hub.refuses(Some(&chain(&[&device])), None, RefusalReason::Chain).await;
        assert!(alone.detail.unwrap().contains("factory"), "the missing issuer is named");
        // An intermediate may be the hub's CA.
        hub.register("factory", &factory, true).await;
        hub.accepts(&chain(&[&device])).await;
        let other = factory.device("dev-2");
        let refused = hub
            .refuses(Some(&chain(&[&other])), None, RefusalReason::CommonName)
            .await;
        assert!(refused.detail.unwrap().contains("\"dev-2\""));
        hub.refuses(None, Some(hub.token().as_bytes()), RefusalReason::AuthType)
            .await;
        // A module has its device's name and its own.
        let id = IdentityId {
            module: Some(ModuleId::parse("m").unwrap()),
            ..identity(DEVICE)
        };
        hub.write(&id, AuthenticationWrite::CertificateAuthority).await;
        for (name, expected) in [("dev-1/m", ACCEPTED), ("dev-1", REFUSED), ("m", REFUSED)] {
            let shown = chain(&[&factory.device(name)]);
            let (_device, connack) = hub.connect(&id, Some(&shown), None).await;
            assert_eq!(connack, expected, "{name}");
        }
    });
}

#[test]
fn removing_a_ca_closes_the_sessions_that_it_carried_and_no_others() {
    simulate(async {
        let hub = Hub::start().await;
        let (old, new) = (Ca::root("old"), Ca::root("new"));
        let (by_old, by_new) = (old.device(DEVICE), new.device(DEVICE));
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        hub.register("old", &old, true).await;
        let mut device = hub.accepts(&chain(&[&by_old])).await;
        // Both count while one replaces the other.
        hub.register("new", &new, true).await;
        device.gets_nothing().await;
        let mut newer = hub.accepts(&chain(&[&by_new])).await;
        assert!(device.rest().await.is_empty(), "the newer connection took its place");
        hub.unregister("old").await;
        newer.gets_nothing().await;
        newer.send(&support::telemetry(1)).await;
        assert_eq!(newer.pubacks(1).await, [1]);
        hub.refuses(Some(&chain(&[&by_old])), None, RefusalReason::Chain).await;
        // Taking the verification back is as good as removing.
        hub.register("new", &new, false).await;
        assert!(newer.rest().await.is_empty());
        hub.last(RefusalReason::Revoked).await;
        hub.register("new", &new, true).await;
        let newest = hub.accepts(&chain(&[&by_new])).await;
        hub.unregister("new").await;
        assert!(newest.rest().await.is_empty());
        hub.last(RefusalReason::Revoked).await;
    });
}

/// Sessions at other gateways are closed by those gateways, each by its own replica.
#[test]
fn a_removed_ca_closes_sessions_on_every_node() {
    simulate(async {
        let hub = Hub::start().await;
        let root = Ca::root("root");
        hub.register("root", &root, true).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        for node in holdfast_simulation::NODES {
            let shown = chain(&[&root.device(DEVICE)]);
            let (device, connack) = hub.connect_at(node, &identity(DEVICE), Some(&shown), None).await;
            assert_eq!(connack, ACCEPTED);
            hub.unregister("root").await;
            assert!(device.rest().await.is_empty());
            hub.register("root", &root, true).await;
        }
    });
}

fn digest(certificate: &Certificate) -> RevokedCertificate {
    RevokedCertificate::Digest(CertificateFingerprints::sha256(certificate.der()))
}

impl Hub {
    async fn revoke(&self, certificate: RevokedCertificate) {
        let registry = self.0.cluster.hub(NodeId(NODE)).registry();
        registry.revoke(certificate, "keyCompromise", None, None).await.unwrap();
        self.everywhere(|found| found.denied().iter().any(|entry| entry.certificate == certificate))
            .await;
    }

    async fn unrevoke(&self, certificate: RevokedCertificate) {
        let registry = self.0.cluster.hub(NodeId(NODE)).registry();
        registry.unrevoke(certificate).await.unwrap();
        self.everywhere(|found| found.denied().is_empty()).await;
    }

    fn now(&self) -> UnixMillis {
        self.0.cluster.hub(NodeId(NODE)).clock().now()
    }

    async fn put_crl(&self, name: &str, der: Bytes) {
        let registry = self.0.cluster.hub(NodeId(NODE)).registry();
        let (_, crl) = registry.put_crl(name, der, None).await.unwrap();
        self.everywhere(|found| found.crl(name).is_some_and(|here| here.sha256 == crl.sha256))
            .await;
    }

    /// Connects at each node in turn, does `revoke`, and checks that the session ends within a second and that no node lets
    /// the certificate in again; then does `undo`.
    async fn ends_on_every_node(
        &self,
        shown: &CertificateChain,
        detail: &str,
        revoke: impl AsyncFn(),
        undo: impl AsyncFn(),
    ) {
        for node in holdfast_simulation::NODES {
            let (device, connack) = self.connect_at(node, &identity(DEVICE), Some(shown), None).await;
            assert_eq!(connack, ACCEPTED);
            let asked = Instant::now();
            revoke().await;
            assert!(device.rest().await.is_empty());
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            let ended = self.last(RefusalReason::CertificateRevoked).await;
            assert_eq!((ended.operation.as_str(), ended.code.number()), ("session", 401_003));
            for node in holdfast_simulation::NODES {
                let (_, connack) = self.connect_at(node, &identity(DEVICE), Some(shown), None).await;
                assert_eq!(connack, REFUSED);
                let refused = self.last(RefusalReason::CertificateRevoked).await;
                assert_eq!(
                    (refused.operation.as_str(), refused.code.number()),
                    ("connect", 401_003)
                );
                assert!(refused.detail.as_ref().unwrap().contains(detail), "{refused:?}");
            }
            undo().await;
        }
    }
}

#[test]
fn a_denied_certificate_ends_its_sessions_on_every_node_and_opens_none() {
    simulate(async {
        let hub = Hub::start().await;
        // Known by its thumbprint.
        let own = certificate("own", |_| {});
        hub.write(&identity(DEVICE), self_signed(sha256(&own), None)).await;
        let denied = digest(&own);
        let (revoke, undo) = (async || hub.revoke(denied).await, async || hub.unrevoke(denied).await);
        hub.ends_on_every_node(&chain(&[&own]), "deny list", revoke, undo).await;

        // Below a CA: the device's, an issuer that it sends, and the CA itself.
        let root = Ca::root("root");
        let factory = root.below("factory");
        let device = factory.device(DEVICE);
        let shown = chain(&[&device, &factory.certificate]);
        hub.register("root", &root, true).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        for (denied, detail) in [
            (digest(&device), "the client's certificate"),
            (digest(&factory.certificate), "issuer 1"),
            (digest(&root.certificate), "the CA CN=root"),
        ] {
            let (revoke, undo) = (async || hub.revoke(denied).await, async || hub.unrevoke(denied).await);
            hub.ends_on_every_node(&shown, detail, revoke, undo).await;
        }
    });
}

#[test]
fn a_revocation_list_ends_the_sessions_of_what_it_names_on_every_node() {
    simulate(async {
        let hub = Hub::start().await;
        let root = Ca::root("root");
        let factory = root.below("factory");
        let (bad, good) = (factory.numbered(DEVICE, &[7, 1]), factory.numbered(DEVICE, &[7, 2]));
        hub.register("root", &root, true).await;
        // Not verified: it is no anchor, and its list counts all the same.
        hub.register("factory", &factory, false).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        let number = std::cell::Cell::new(0);
        let next = || {
            number.set(number.get() + 1);
            number.get()
        };
        let with = |serials: &[&[u8]]| factory.crl(next(), serials, hub.now(), 100_000);
        let revoke = async || hub.put_crl("factory", with(&[&[7, 1]])).await;
        let undo = async || hub.put_crl("factory", with(&[])).await;
        let shown = chain(&[&bad, &factory.certificate]);
        hub.ends_on_every_node(&shown, "the CRL of CA factory", revoke, undo)
            .await;

        // Others of the CA stay.
        let mut device = hub.accepts(&chain(&[&good, &factory.certificate])).await;
        hub.put_crl("factory", with(&[&[7, 1]])).await;
        device.gets_nothing().await;
        // The number does not go back, and the same list is no change.
        let registry = hub.0.cluster.hub(NodeId(NODE)).registry();
        let older = factory.crl(1, &[&[7, 2]], hub.now(), 100_000);
        let refused = registry.put_crl("factory", older, None).await.unwrap_err();
        assert!(refused.to_string().contains("greater number"), "{refused}");
        // A list outlives its CA only as long as that has its name.
        hub.unregister("factory").await;
        hub.everywhere(|found| found.crls().next().is_none()).await;
        drop(device);
        hub.accepts(&shown).await;
    });
}

#[test]
fn a_list_whose_time_has_ended_is_used_unless_the_settings_refuse_it() {
    simulate(async {
        let hub = Hub::start().await;
        let root = Ca::root("root");
        let (bad, good) = (root.numbered(DEVICE, &[1]), root.numbered(DEVICE, &[2]));
        hub.register("root", &root, true).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        let crl = root.crl(1, &[&[1]], hub.now(), 60);
        hub.put_crl("root", crl).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        hub.refuses(Some(&chain(&[&bad])), None, RefusalReason::CertificateRevoked)
            .await;
        hub.accepts(&chain(&[&good])).await;
    });
}

#[test]
fn the_chain_of_the_last_connection_is_known_on_every_node_after_it_has_ended() {
    simulate(async {
        let hub = Hub::start().await;
        let (old, new) = (Ca::root("old"), Ca::root("new"));
        let factory = old.below("factory");
        hub.register("old", &old, true).await;
        hub.register("new", &new, true).await;
        let id = identity(DEVICE);
        hub.write(&id, AuthenticationWrite::CertificateAuthority).await;
        let sha = |ca: &Ca| CertificateFingerprints::sha256(ca.certificate.der());
        let known = async |expected: &[[u8; 32]], is_connected| {
            for node in holdfast_simulation::NODES {
                loop {
                    let chain = hub.0.cluster.hub(node).chains(&[&id]).await.remove(0);
                    if chain.issuers == expected && chain.is_connected == is_connected {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        known(&[], false).await;
        let below_factory = chain(&[&factory.device(DEVICE), &factory.certificate]);
        let device = hub.accepts(&below_factory).await;
        known(&[sha(&factory), sha(&old)], true).await;
        drop(device);
        known(&[sha(&factory), sha(&old)], false).await;
        // The device has rolled over.
        let device = hub.accepts(&chain(&[&new.device(DEVICE)])).await;
        known(&[sha(&new)], true).await;
        drop(device);
        known(&[sha(&new)], false).await;
    });
}

#[test]
fn https_takes_the_same_certificates_at_every_request() {
    simulate(async {
        let hub = Hub::start().await;
        let send = "/devices/dev-1/messages/events?api-version=2021-04-12";
        let own = certificate("own", |_| {});
        hub.write(&identity(DEVICE), self_signed(sha256(&own), None)).await;
        let mut https = Https::open(&hub.0, NodeId(NODE), Some(chain(&[&own])));
        let mut nobody = Https::open(&hub.0, NodeId(NODE), None);
        for _ in 0..2 {
            assert_eq!(https.post(send, "", &[], b"1").await.status, 204);
        }
        assert_eq!(nobody.post(send, "", &[], b"1").await.number(), 401_002);
        assert_eq!(
            nobody.post(send, &hub.token(), &[], b"1").await.number(),
            401_002,
            "a token does not count"
        );
        let ca = Ca::root("ca");
        let device = ca.device(DEVICE);
        hub.register("ca", &ca, true).await;
        hub.write(&identity(DEVICE), AuthenticationWrite::CertificateAuthority)
            .await;
        assert_eq!(
            https.post(send, "", &[], b"1").await.status,
            401,
            "over a connection that was good before"
        );
        let mut https = Https::open(&hub.0, NodeId(NODE), Some(chain(&[&device])));
        assert_eq!(https.post(send, "", &[], b"2").await.status, 204);
        hub.unregister("ca").await;
        assert_eq!(https.post(send, "", &[], b"3").await.status, 401);
        assert_eq!(hub.0.cluster.events(NodeId(NODE), DEVICE).await, [1, 1, 2]);
    });
}

#[test]
fn amqp_takes_the_same_certificates_with_the_first_link_of_an_identity() {
    simulate(async {
        let hub = Hub::start().await;
        let amqp = Amqp::serve(&hub.0);
        let (own, other) = (certificate("own", |_| {}), certificate("other", |_| {}));
        let path = address("messages/events");
        hub.write(&identity(DEVICE), self_signed(sha256(&own), None)).await;
        let mut device = amqp.open_as(ClientSasl::None, Some(chain(&[&own]))).await;
        let link = device.sender("events", &path).await;
        assert_eq!(device.sent(link, b"1").await, Verdict::Accepted);
        let mut wrong = amqp.open_as(ClientSasl::None, Some(chain(&[&other]))).await;
        let refused = wrong.attach(&AttachSpec::sender("events", &path)).await;
        assert_eq!(refused.unwrap_err().0, "amqp:unauthorized-access");
        hub.last(RefusalReason::Thumbprint).await;
        hub.write(&identity(DEVICE), self_signed(sha256(&other), None)).await;
        assert_eq!(device.detached(link).await.0, "amqp:unauthorized-access");
    });
}
