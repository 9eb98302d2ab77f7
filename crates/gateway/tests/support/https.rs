//! A device that speaks HTTP, byte by byte, to the HTTPS front end of one node.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_gateway::{
    HttpsConfig, HttpsFront, RegistrationFront, UploadStorage, is_device_path, is_registration_path,
};
use holdfast_model::{CertificateChain, NodeId};
use holdfast_net::router::{Port, Route, Router};
use holdfast_net::{Handler, Peer, serve_http};
use holdfast_provisioning::{Provisioning, ProvisioningConfig};
use holdfast_simulation::HOST;
use holdfast_tasks::Stop;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::Bench;

/// How long an answer may take: longer than any deadline of the hub.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Https {
    stream: DuplexStream,
    input: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub(crate) fn number(&self) -> u32 {
        u32::try_from(self.json()["errorCode"].as_u64().unwrap_or_default()).unwrap()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["Message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Https {
    pub(crate) fn open(bench: &Bench, node: NodeId, certificates: Option<CertificateChain>) -> Self {
        Self::open_with(bench, node, certificates, None)
    }

    /// To a front end whose devices upload files to `uploads`.
    pub(crate) fn open_with(
        bench: &Bench,
        node: NodeId,
        certificates: Option<CertificateChain>,
        uploads: Option<Arc<dyn UploadStorage>>,
    ) -> Self {
        let front = HttpsFront::new(
            Rc::clone(&bench.cluster.nodes[&node].cores[0]),
            HttpsConfig::default(),
            uploads,
        );
        let (hub, servers) = (Arc::clone(bench.cluster.hub(node)), Arc::clone(&bench.servers));
        let provisioning = Provisioning::new(hub, ProvisioningConfig::default(), servers);
        let registration = RegistrationFront::new(provisioning, HttpsConfig::default());
        let routes = vec![
            Route::new(Port::Https, Handler::Http(front.handler())).matching(is_device_path),
            Route::new(Port::Https, Handler::Http(registration.handler())).matching(is_registration_path),
        ];
        let (client, server) = duplex(64 * 1024);
        let peer = Peer {
            certificates,
            ..Peer::plain(SocketAddr::from(([127, 0, 0, 1], 4711)))
        };
        let router = Rc::new(Router::new(routes));
        let serving = serve_http(server, peer, router, Duration::from_secs(30), Stop::new());
        holdfast_tasks::spawn_local("https", Box::pin(serving));
        Self {
            stream: client,
            input: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The hub may close before it has read everything.
    pub(crate) async fn write_what_is_taken(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn post(&mut self, path: &str, token: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.request("POST", path, token, headers, body).await
    }

    /// Without an `Authorization` header when `token` is empty.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !token.is_empty() {
            head += &format!("Authorization: {token}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.write(head.as_bytes()).await;
        self.write(body).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            self.more().await;
        };
        let head: Vec<u8> = self.input.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while self.input.len() < length {
            self.more().await;
        }
        answer.body = String::from_utf8(self.input.drain(..length).collect()).unwrap();
        answer
    }

    async fn more(&mut self) {
        let read = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read_buf(&mut self.input));
        assert!(
            read.await.expect("an answer in time").unwrap() > 0,
            "closed: {:?}",
            String::from_utf8_lossy(&self.input)
        );
    }

    /// Everything until the hub closes the connection, or until it waits for more.
    pub(crate) async fn rest(mut self) -> String {
        let _ = self.stream.shutdown().await;
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read_to_end(&mut self.input)).await;
        String::from_utf8_lossy(&self.input).into_owned()
    }
}
