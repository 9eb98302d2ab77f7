//! Registrations without a request for a certificate, of devices that have one.

use holdfast_registry::Authentication;

use super::operations::{A, known, thumbprint};
use super::*;

const CLASSIC: &str = "2019-03-31";

impl Factory {
    async fn opens_by(&self, id: &str) -> &'static str {
        let found = self.registry().get(&identity(id)).await.unwrap().unwrap();
        match &found.authentication {
            Authentication::CertificateAuthority => "certificate",
            Authentication::Sas(_) => "key",
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_client_that_knows_certificates_keeps_the_one_it_has() {
    simulate(async {
        let factory = Factory::start().await;
        let key = KeyPair::generate().unwrap();
        // It has none: it gets in by what it registers with.
        factory.outcome("SN-1", &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "key");
        let issued = factory.issued("SN-1", &key).await;
        factory.outcome("SN-1", &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "certificate");
        assert_eq!(factory.connect(NodeId(3), "SN-1", &issued).await.1, ACCEPTED);
        // A classic client cannot have got it, and could not use it.
        factory.register("SN-1", CLASSIC, &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "key");
        // What it opens by is not changed back.
        factory.outcome("SN-1", &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "key");

        factory.issued("SN-1", &key).await;
        let device = DeviceId::parse("SN-1").unwrap();
        let registry = factory.registry();
        registry
            .revoke_device_certificates(&device, "keyCompromise")
            .await
            .unwrap();
        factory.outcome("SN-1", &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "key", "it has none that counts");
        factory.issued("SN-1", &key).await;
        factory.enroll("fleet", None, |_| {}).await;
        factory.outcome("SN-1", &json!({})).await;
        assert_eq!(factory.opens_by("SN-1").await, "key", "its enrollment issues none");
    });
}

#[test]
fn at_a_linked_hub_too() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        let key = KeyPair::generate().unwrap();
        let issued = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        let end = factory.outcome("SN-1", &json!({})).await;
        assert_eq!(end["status"], "assigned");
        assert!(end["registrationState"].get("issuedCertificateChain").is_none());
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(issued.leaf())), Value::Null]);
        let (_, _, answer) = factory.registering(NodeId(2), "SN-1", CLASSIC, &json!({})).await;
        assert_eq!(answer["status"], "assigning");
        factory.ended(NodeId(2), "SN-1").await;
        let all = hubs.0.lock();
        assert_eq!(all[A].devices["SN-1"]["authentication"]["type"], "sas");
    });
}
