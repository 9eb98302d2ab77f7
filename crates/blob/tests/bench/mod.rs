//! A store and its endpoint on a real database and real files.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "tests may, and not each of them uses all"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_auth::Key;
use holdfast_blob::{Account, BlobConfig, BlobService, BlobStore, Bucket, StoreParts, sas};
use holdfast_model::{ByteSize, Clock, UnixMillis};
use holdfast_net::{Body, Peer};
use holdfast_storage::{DataDir, DiskGuard, Flusher, NodeIdentity, StorageConfig};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use sha2::Sha256;

pub struct Bench {
    account: Account,
    pub service: BlobService,
    pub store: BlobStore,
}

impl Bench {
    /// Opens what is in `dir`, or begins anew.
    pub async fn open(dir: &Path, change: impl FnOnce(&mut BlobConfig)) -> Self {
        Self::open_with(dir, change, None).await
    }

    /// With the blobs of the container `box` in a bucket.
    pub async fn open_with(dir: &Path, change: impl FnOnce(&mut BlobConfig), bucket: Option<Bucket>) -> Self {
        let mut config = BlobConfig::default();
        change(&mut config);
        let storage = StorageConfig {
            min_free: ByteSize(0),
            min_free_percent: 0,
            ..StorageConfig::default()
        };
        let data = DataDir::open(&dir.join("data"), || NodeIdentity {
            cluster: "test".to_owned(),
            incarnation: 1,
        })
        .unwrap();
        let disk = holdfast_storage::open(&data, &storage).unwrap();
        let flusher = Flusher::spawn(Arc::clone(&disk) as _, Arc::new(|error| panic!("{error}"))).unwrap();
        let guard = DiskGuard::new(Arc::clone(&disk) as _, &storage).unwrap();
        let store = BlobStore::open(StoreParts {
            disk,
            flusher,
            guard,
            on_fatal: Arc::new(|error| panic!("{error}")),
            clock: Clock::system(),
            directory: dir.join("blobs"),
            config,
            bucket,
        })
        .unwrap();
        store.ensure_container("box").await.unwrap();
        let account = Account::new("store", Key::from_bytes(vec![7; 64]).unwrap());
        Self {
            service: BlobService::new(account.clone(), store.clone()),
            account,
            store,
        }
    }

    pub async fn call(
        &self,
        method: &str,
        blob: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response<Body> {
        let now = Clock::system().now();
        let sas = sas::for_upload(&self.account, "box", blob, now, UnixMillis(now.0 + 60_000));
        let uri = format!("{}{sas}&{query}", sas::path_of("box", blob));
        let mut request = Request::builder().method(method).uri(uri.trim_end_matches('&'));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer::plain(SocketAddr::from(([127, 0, 0, 1], 4711)));
        self.service.answer(request.body(body).unwrap(), &peer).await
    }

    /// A request of the account's owner: `path` below it, with a signature for all of it.
    pub async fn as_owner(&self, method: &str, path: &str, query: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let text = "store\nrwdlac\nb\nsco\n\n2099-01-01\n\n\n2021-12-02\n\n";
        let mut mac = Hmac::<Sha256>::new_from_slice(self.account.key().as_bytes()).unwrap();
        mac.update(text.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let signature = percent_encoding::utf8_percent_encode(&signature, percent_encoding::NON_ALPHANUMERIC);
        let uri = format!("{path}?sv=2021-12-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01&sig={signature}&{query}");
        let mut request = Request::builder().method(method).uri(uri.trim_end_matches('&'));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer::plain(SocketAddr::from(([127, 0, 0, 1], 4711)));
        self.service.answer(request.body(whole(b"")).unwrap(), &peer).await
    }

    pub async fn put(&self, blob: &str, content: &[u8]) -> Response<Body> {
        let length = content.len().to_string();
        let headers = [("x-ms-blob-type", "BlockBlob"), ("content-length", length.as_str())];
        self.call("PUT", blob, "", &headers, whole(content)).await
    }

    pub async fn put_block(&self, blob: &str, id: &str, content: &[u8]) -> Response<Body> {
        let length = content.len().to_string();
        let query = format!("comp=block&blockid={id}");
        self.call(
            "PUT",
            blob,
            &query,
            &[("content-length", length.as_str())],
            whole(content),
        )
        .await
    }

    pub async fn commit(&self, blob: &str, ids: &[&str]) -> Response<Body> {
        let entries: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let list = format!("<BlockList>{entries}</BlockList>");
        let length = list.len().to_string();
        self.call(
            "PUT",
            blob,
            "comp=blocklist",
            &[("content-length", length.as_str())],
            whole(list.as_bytes()),
        )
        .await
    }

    pub async fn content(&self, blob: &str) -> Option<Vec<u8>> {
        let answer = self.call("GET", blob, "", &[], whole(b"")).await;
        match answer.status() {
            StatusCode::OK => Some(answer.into_body().collect().await.unwrap().to_bytes().to_vec()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{status}"),
        }
    }
}

pub fn whole(content: &[u8]) -> Body {
    let body = Full::new(Bytes::copy_from_slice(content));
    body.map_err(|never| match never {}).boxed_unsync()
}

/// A body that breaks off after its content.
pub fn broken(content: &'static [u8]) -> Body {
    let frames = [
        Ok(Frame::data(Bytes::from_static(content))),
        Err(Box::<dyn std::error::Error + Send + Sync>::from(
            "the connection is gone",
        )),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

pub fn code(answer: &Response<Body>) -> (u16, String) {
    let code = answer
        .headers()
        .get("x-ms-error-code")
        .map(|code| code.to_str().unwrap().to_owned());
    (answer.status().as_u16(), code.unwrap_or_default())
}

pub fn files(dir: &Path) -> usize {
    let folders = std::fs::read_dir(dir.join("blobs")).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}

pub async fn until_files(dir: &Path, wanted: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while files(dir) != wanted {
        assert!(
            std::time::Instant::now() < deadline,
            "{} files, not {wanted}",
            files(dir)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
