//! A cluster with a provisioning service, and the tokens of its devices.

use holdfast_auth::{Key, sign};
use holdfast_model::NodeId;
use holdfast_registry::{
    AttestationWrite, EnrollmentContent, EnrollmentKind, EnrollmentOperation, EnrollmentWrite, Registry,
};

use super::Bench;

pub(crate) struct Factory {
    pub(crate) bench: Bench,
    pub(crate) scope: String,
    pub(crate) group_key: Key,
}

impl Factory {
    /// A cluster with a group "fleet".
    pub(crate) async fn start() -> Self {
        let bench = Bench::start().await;
        let registry = bench.cluster.hub(NodeId(1)).registry().clone();
        registry.found_provisioning().await.unwrap();
        let scope = registry.provisioning().unwrap().id_scope.clone();
        let group_key = Key::from_bytes(vec![7; 64]).unwrap();
        let factory = Self {
            bench,
            scope,
            group_key,
        };
        let attestation = factory.attestation();
        factory
            .enroll(
                EnrollmentKind::Group,
                "fleet",
                EnrollmentOperation::Create(attestation, EnrollmentContent::default()),
            )
            .await;
        factory
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.bench.cluster.hub(NodeId(1)).registry()
    }

    pub(crate) fn attestation(&self) -> AttestationWrite {
        AttestationWrite::SymmetricKey {
            primary: Some(self.group_key.clone()),
            secondary: None,
        }
    }

    pub(crate) async fn enroll(&self, kind: EnrollmentKind, id: &str, operation: EnrollmentOperation) {
        let write = EnrollmentWrite {
            id: id.to_owned(),
            operation,
        };
        self.registry().write_enrollment(kind, write).await.unwrap();
    }

    pub(crate) fn token(&self, id: &str, key: &Key) -> String {
        let now = self.bench.cluster.hub(NodeId(1)).clock().now().seconds();
        let resource = format!("{}/registrations/{id}", self.scope);
        sign(&resource, key.as_bytes(), Some("registration"), now + 3600)
    }
}
