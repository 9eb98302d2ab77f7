//! Devices that are assigned to other hubs, which fail in every way.

use std::time::Duration;

use holdfast_model::NodeId;
use holdfast_registry::{
    AllocationPolicy, EnrollmentContent, EnrollmentKind, EnrollmentOperation, HubLogin, IfMatch, LinkedHubContent,
    Registration, RegistrationOutcome, ReprovisionPolicy, Substatus,
};
use holdfast_simulation::{HOST, NODES, identity, simulate};

use super::Factory;
use super::support::fake_hub::{FakeHubs, Fault};

const A: &str = "a.example.com";
const B: &str = "b.example.com";

async fn factory() -> (Factory, FakeHubs) {
    let factory = Factory::start().await;
    let hubs = FakeHubs::start(&factory.bench.servers, &[A, B]);
    for host in [A, B] {
        let hub = LinkedHubContent {
            host_name: host.to_owned(),
            login: Some(HubLogin {
                policy: "provisioning".to_owned(),
                key: Some(factory.group_key.clone()),
            }),
            weight: 1,
            applies_allocation: true,
            is_disabled: false,
            endpoint: None,
            ca_certificate: None,
            location: None,
        };
        factory.registry().put_linked_hub(&hub, None).await.unwrap();
    }
    (factory, hubs)
}

impl Factory {
    async fn assign_to(&self, hosts: &[&str], policy: AllocationPolicy, reprovision: Option<ReprovisionPolicy>) {
        let content = EnrollmentContent {
            allocation: Some(policy),
            iot_hubs: hosts.iter().map(|host| (*host).to_owned()).collect(),
            reprovision,
            ..EnrollmentContent::default()
        };
        let update = EnrollmentOperation::Update(IfMatch::Any, self.attestation(), content);
        self.enroll(EnrollmentKind::Group, "fleet", update).await;
    }

    async fn registered(&self, id: &str) -> Registration {
        let _ = self.registering(2, id, "").await;
        self.ended(2, id).await
    }

    /// Waits until nothing is left to do for the device.
    async fn settled(&self, id: &str) {
        loop {
            let found = self.registry().registration(id).unwrap().unwrap();
            if found.pending().is_none() && found.left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn is_here(&self, id: &str) -> bool {
        self.registry().identity(&identity(id)).unwrap().is_some()
    }
}

fn at(registration: &Registration) -> (&str, Substatus) {
    match &registration.outcome {
        RegistrationOutcome::Assigned { hub, substatus, .. } => (hub, *substatus),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_whose_creation_was_not_answered_is_at_one_hub_in_the_end() {
    simulate(async {
        let (factory, hubs) = factory().await;
        factory.assign_to(&[A], AllocationPolicy::Static, None).await;
        // The creation takes effect, its answer is lost, and the registration fails after a minute.
        hubs.set(A, Fault::LosesAnswers);
        let _ = factory.registering(2, "SN-1", "").await;
        while hubs.holders("SN-1").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        hubs.set(A, Fault::Down);
        let failed = factory.ended(2, "SN-1").await;
        let RegistrationOutcome::Failed { code, .. } = &failed.outcome else {
            panic!("{failed:?}")
        };
        assert_eq!(code.number(), 400_208);
        assert_eq!(failed.left.len(), 1, "it may be there");
        // It is assigned to another hub meanwhile, and deleted at the first one when that is back.
        factory.assign_to(&[B], AllocationPolicy::Static, None).await;
        assert_eq!(at(&factory.registered("SN-1").await).0, B);
        assert_eq!(hubs.holders("SN-1"), [A, B]);
        hubs.set(A, Fault::None);
        factory.settled("SN-1").await;
        assert_eq!(hubs.holders("SN-1"), [B]);
    });
}

#[test]
fn lost_answers_repeat_steps_without_another_effect() {
    simulate(async {
        let (factory, hubs) = factory().await;
        factory.assign_to(&[A], AllocationPolicy::Static, None).await;
        hubs.set(A, Fault::LosesAnswers);
        let _ = factory.registering(2, "SN-1", "").await;
        while hubs.holders("SN-1").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        hubs.set(A, Fault::None);
        let found = factory.ended(2, "SN-1").await;
        assert_eq!(at(&found), (A, Substatus::InitialAssignment));
        factory.settled("SN-1").await;
        assert_eq!(hubs.holders("SN-1"), [A]);
    });
}

#[test]
fn a_hub_that_is_down_is_skipped_and_gets_devices_again() {
    simulate(async {
        let (factory, hubs) = factory().await;
        factory.assign_to(&[A, B], AllocationPolicy::Hashed, None).await;
        hubs.set(A, Fault::Down);
        for number in 0..12 {
            let found = factory.registered(&format!("SN-{number}")).await;
            assert_eq!(at(&found).0, B);
        }
        hubs.set(A, Fault::None);
        tokio::time::sleep(Duration::from_secs(61)).await;
        let mut back = 0;
        for number in 0..12 {
            let id = format!("NEW-{number}");
            back += usize::from(at(&factory.registered(&id).await).0 == A);
        }
        assert!(back > 0);
    });
}

#[test]
fn devices_move_between_hubs_while_leaders_die() {
    simulate(async {
        let (mut factory, hubs) = factory().await;
        factory.assign_to(&[A], AllocationPolicy::Static, None).await;
        for number in 0..6 {
            let id = format!("SN-{number}");
            factory.registered(&id).await;
            let mut all = hubs.0.lock();
            let device = all.get_mut(A).unwrap().devices.get_mut(&id).unwrap();
            device["tags"] = serde_json::json!({"number": number});
            device["properties"] = serde_json::json!({"reported": {"firmware": number}});
        }
        factory.assign_to(&[B], AllocationPolicy::Static, None).await;
        let leader = NODES
            .into_iter()
            .find(|node| factory.bench.cluster.hub(*node).registry().is_leader());
        let leader = leader.unwrap();
        let asked = NODES.into_iter().find(|node| *node != leader).unwrap();
        for number in 0..6 {
            let _ = factory.registering(asked.get(), &format!("SN-{number}"), "").await;
        }
        factory.bench.cluster.kill(leader);
        for number in 0..6 {
            let id = format!("SN-{number}");
            let found = factory.ended(asked.get(), &id).await;
            assert_eq!(at(&found).0, B);
            let registry = factory.bench.cluster.hub(asked).registry().clone();
            while !registry.registration(&id).unwrap().unwrap().left.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(hubs.holders(&id), [B]);
            let all = hubs.0.lock();
            assert_eq!(all[B].devices[&id]["tags"]["number"], number);
            assert_eq!(all[B].devices[&id]["properties"]["reported"]["firmware"], number);
        }
    });
}

#[test]
fn a_device_comes_to_the_own_hub_and_leaves_it() {
    simulate(async {
        let (factory, hubs) = factory().await;
        factory.assign_to(&[A], AllocationPolicy::Static, None).await;
        factory.registered("SN-1").await;
        factory.assign_to(&[HOST], AllocationPolicy::Static, None).await;
        let found = factory.registered("SN-1").await;
        assert_eq!(at(&found), (HOST, Substatus::DeviceDataMigrated));
        factory.settled("SN-1").await;
        assert!(factory.is_here("SN-1") && hubs.holders("SN-1").is_empty());
        let reset = ReprovisionPolicy {
            update_hub_assignment: true,
            migrate_device_data: false,
        };
        factory.assign_to(&[B], AllocationPolicy::Static, Some(reset)).await;
        let found = factory.registered("SN-1").await;
        assert_eq!(at(&found), (B, Substatus::DeviceDataReset));
        assert!(!factory.is_here("SN-1"));
        assert_eq!(hubs.holders("SN-1"), [B]);
        // Someone has made the device anew at the hub that it leaves, which is down meanwhile: that one stays.
        factory
            .assign_to(&[A], AllocationPolicy::Static, Some(ReprovisionPolicy::MIGRATE))
            .await;
        factory.registered("SN-1").await;
        factory.settled("SN-1").await;
        assert_eq!(hubs.holders("SN-1"), [A]);
        assert_eq!(factory.bench.cluster.hub(NodeId(1)).registry().linked_hubs().len(), 2);
    });
}

#[test]
fn the_nearest_hub_is_the_one_that_answers_fastest_where_the_device_registers() {
    simulate(async {
        let (factory, hubs) = factory().await;
        hubs.is_far(A, Duration::from_millis(30));
        hubs.is_far(B, Duration::from_millis(15));
        factory.assign_to(&[A, B], AllocationPolicy::GeoLatency, None).await;
        // Every node has measured both.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for number in 0..6 {
            let id = format!("SN-{number}");
            assert_eq!(at(&factory.registered(&id).await).0, B);
        }
        // The other one is a little nearer now: no device moves for that.
        hubs.is_far(A, Duration::from_millis(8));
        tokio::time::sleep(Duration::from_secs(480)).await;
        assert_eq!(at(&factory.registered("SN-0").await).0, B);
        assert_eq!(at(&factory.registered("NEW-0").await).0, A);
        // Far away, and out of service.
        hubs.is_far(B, Duration::from_millis(200));
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(
            at(&factory.registered("SN-0").await),
            (A, Substatus::DeviceDataMigrated)
        );
        hubs.set(A, Fault::Down);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(at(&factory.registered("NEW-1").await).0, B);
        // This hub is where the device is.
        factory.assign_to(&[], AllocationPolicy::GeoLatency, None).await;
        let (_, _, answer) = factory.registering(2, "NEW-2", "").await;
        assert_eq!(answer["registrationState"]["assignedHub"], HOST);
    });
}

#[test]
fn an_enrollment_of_the_device_alone_ends_the_operation_of_its_group() {
    simulate(async {
        let (factory, hubs) = factory().await;
        factory.assign_to(&[A], AllocationPolicy::Static, None).await;
        hubs.set(A, Fault::Down);
        let _ = factory.registering(2, "SN-1", "").await;
        let create = EnrollmentOperation::Create(factory.attestation(), EnrollmentContent::default());
        factory.enroll(EnrollmentKind::Individual, "sn-1", create).await;
        let RegistrationOutcome::Failed { code, .. } = factory.ended(2, "SN-1").await.outcome else {
            panic!("it is decided by an enrollment that does not decide any more")
        };
        assert_eq!(code.number(), 409_203);
    });
}
