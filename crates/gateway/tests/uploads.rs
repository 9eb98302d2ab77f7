//! Uploads of a device on a simulated cluster, through any node and past changes of the owner.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::sign_identity;
use holdfast_device_hub::{FeedbackVerdict, UploadNotification, UploadReader, UploadSource, UploadedFile};
use holdfast_gateway::{UploadLocation, UploadStorage, UploadedBlob};
use holdfast_model::{HumanDuration, NodeId, UnixMillis};
use holdfast_partition::record::DeviceStateKind;
use holdfast_simulation::{HOST, SECOND, Setup, identity, partition_of, primary_key, simulate};
use support::https::{Answer, Https};
use support::{Bench, DEVICE, NODE};

const BEGIN: &str = "/devices/dev-1/files?api-version=2021-04-12";
const END: &str = "/devices/dev-1/files/notifications?api-version=2021-04-12";

/// A storage that has every blob but those whose names say so.
struct Storage;

impl UploadStorage for Storage {
    fn location(&self, blob: &str, now: UnixMillis) -> UploadLocation {
        UploadLocation {
            host: "files.example.com".to_owned(),
            container: "uploads".to_owned(),
            sas: format!("?sig={}{}", blob.len(), now.0 % 7),
        }
    }

    fn find(&self, blob: &str) -> UploadedBlob {
        let found = match blob {
            _ if blob.ends_with("missing") => Ok(None),
            _ if blob.ends_with("unknown") => Err("no answer".to_owned()),
            _ => Ok(Some(UploadedFile {
                uri: format!("https://files.example.com/uploads/{blob}"),
                size: 7,
                modified: UnixMillis(1000),
            })),
        };
        Box::pin(async move { found })
    }
}

impl Bench {
    async fn call(&self, node: u64, path: &str, body: &str) -> Answer {
        let hub = self.cluster.hub(NodeId(node));
        let registered = hub.registry().identity(&identity(DEVICE)).unwrap().unwrap();
        let key = primary_key(&registered.authentication);
        let expiry = hub.clock().now().0 / 1000 + 3600;
        let token = sign_identity(HOST, &identity(DEVICE), &key, expiry);
        let mut https = Https::open_with(self, NodeId(node), None, Some(Arc::new(Storage)));
        https.post(path, &token, &[], body.as_bytes()).await
    }

    async fn begin(&self, node: u64, name: &str) -> Answer {
        self.call(node, BEGIN, &format!(r#"{{"blobName":"{name}"}}"#)).await
    }

    async fn begun(&self, node: u64, name: &str) -> String {
        let answer = self.begin(node, name).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["correlationId"].as_str().unwrap().to_owned()
    }

    async fn end(&self, node: u64, id: &str) -> Answer {
        let body = format!(r#"{{"correlationId":"{id}","isSuccess":true}}"#);
        self.call(node, END, &body).await
    }

    async fn next(&self, node: u64, reader: UploadReader) -> Vec<UploadNotification> {
        let mut source = UploadSource::new(Arc::clone(self.cluster.hub(NodeId(node))), reader);
        let next = std::future::poll_fn(|cx| source.poll_next(cx));
        tokio::time::timeout(Duration::from_secs(100), next)
            .await
            .expect("a notification in time")
    }

    /// The stored uploads of the device.
    async fn stored(&self) -> Vec<u8> {
        let id = partition_of(DEVICE);
        let owner = self.cluster.owner(id).await.node;
        let replica = self.cluster.nodes[&owner].partitions.local(id).unwrap();
        let page = replica.device_states(DeviceStateKind::UPLOADS, None).await.unwrap();
        page.entries[0].value.to_vec()
    }

    async fn accept(&self, notifications: Vec<UploadNotification>) {
        let hub = self.cluster.hub(NodeId(NODE));
        hub.settle_uploads(UploadReader::BackEnd, notifications, FeedbackVerdict::Done)
            .await;
    }
}

#[test]
fn slots_reports_and_notifications_outlive_every_owner() {
    simulate(async {
        let bench = Bench::start().await;
        let first = bench.begin(1, "logs/a b.txt").await.json();
        assert_eq!(
            (&first["hostName"], &first["containerName"], &first["blobName"]),
            (
                &"files.example.com".into(),
                &"uploads".into(),
                &"dev-1/logs/a b.txt".into()
            )
        );
        let mut ids = vec![first["correlationId"].as_str().unwrap().to_owned()];
        for (number, owner) in [2, 1, 3, 2, 1, 3, 2, 1, 3].into_iter().enumerate() {
            bench.cluster.owned_by(DEVICE, NodeId(owner)).await;
            ids.push(bench.begun(1 + number as u64 % 3, &format!("{number}.txt")).await);
        }
        let full = bench.begin(2, "more.txt").await;
        assert_eq!((full.status, full.number()), (403, 403_006), "{full:?}");
        for (number, id) in ids.iter().take(3).enumerate() {
            assert_eq!(bench.end(1 + number as u64, id).await.status, 204);
        }
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        assert_eq!(bench.end(3, &ids[0]).await.status, 204, "a repeated report");
        let mut heard = Vec::new();
        while heard.len() < 3 {
            let taken = bench.next(2, UploadReader::BackEnd).await;
            heard.extend(taken.iter().map(|one| one.correlation_id.clone()));
            bench.cluster.owned_by(DEVICE, NodeId(3)).await;
            bench.accept(taken).await;
        }
        assert_eq!(heard, ids[..3], "each once, in the order of the reports");
        bench.begun(1, "again.txt").await;
    });
}

#[test]
fn a_slot_ends_with_its_time_and_a_report_then_says_so() {
    simulate(async {
        let mut setup = Setup::default();
        setup.uploads.sas_ttl = HumanDuration::secs(60);
        let bench = Bench::start_as(setup).await;
        let id = bench.begun(1, "late.txt").await;
        for number in 0..9 {
            bench.begun(2, &format!("{number}.txt")).await;
        }
        assert_eq!(bench.begin(3, "more.txt").await.status, 403);
        let before = bench.stored().await;
        tokio::time::sleep(61 * SECOND).await;
        assert_ne!(bench.stored().await, before, "expired without a request of the device");
        let late = bench.end(1, &id).await;
        assert_eq!((late.status, late.number()), (400, 400_016), "{late:?}");
        bench.begun(3, "more.txt").await;
        let unknown = bench.end(1, "0123").await;
        assert_eq!((unknown.status, unknown.number()), (400, 400_015));
    });
}

#[test]
fn the_storage_decides_whether_there_is_a_file() {
    simulate(async {
        let bench = Bench::start().await;
        for (name, status, number) in [("missing", 400, 400_020), ("unknown", 503, 503_001)] {
            let id = bench.begun(1, name).await;
            let refused = bench.end(2, &id).await;
            assert_eq!((refused.status, refused.number()), (status, number), "{name}");
            // It may be reported again, as failed too.
            let failed = format!(r#"{{"CorrelationId":"{id}","IsSuccess":false,"StatusCode":500}}"#);
            assert_eq!(bench.call(3, END, &failed).await.status, 204);
        }
        let id = bench.begun(1, "there").await;
        bench.end(2, &id).await;
        let heard = bench.next(3, UploadReader::BackEnd).await;
        assert_eq!(heard.len(), 1, "failed uploads are no files");
        assert_eq!((heard[0].blob_name.as_str(), heard[0].size), ("dev-1/there", 7));
    });
}

#[test]
fn a_notification_is_with_one_back_end_and_comes_again_after_its_lock() {
    simulate(async {
        let bench = Bench::start().await;
        let id = bench.begun(1, "x").await;
        bench.end(1, &id).await;
        let taken = bench.next(1, UploadReader::BackEnd).await;
        let other = tokio::time::timeout(50 * SECOND, bench.next(2, UploadReader::BackEnd)).await;
        assert!(other.is_err(), "another back end has it: {other:?}");
        assert_eq!(bench.next(2, UploadReader::BackEnd).await, taken);
    });
}

#[test]
fn a_notification_that_a_closed_back_end_has_never_had_is_no_delivery() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        for name in ["here.txt", "there.txt"] {
            // Back ends at the owner and elsewhere call for records, and end before there are some.
            for node in [1, 2] {
                let hub = Arc::clone(bench.cluster.hub(NodeId(node)));
                let mut closed = UploadSource::new(hub, UploadReader::BackEnd);
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(closed.poll_next(cx).is_pending()));
                assert!(polled.await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let id = bench.begun(1, name).await;
            assert_eq!(bench.end(1, &id).await.status, 204);
            let taken = bench.next(3, UploadReader::BackEnd).await;
            assert_eq!((taken.len(), taken[0].deliveries), (1, 0));
            bench.accept(taken).await;
        }
    });
}
