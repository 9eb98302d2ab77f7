//! A service that speaks S3 on a directory, checks signatures, and can be told to fail.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "tests may, and not each of them uses all"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_blob::{Bucket, S3Config};
use holdfast_model::{ByteSize, HumanDuration};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivatePkcs8KeyDer;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const KEY_ID: &str = "the-id";
pub const SECRET: &str = "very-secret-0123456789";
pub const BUCKET: &str = "fleet";

/// What the service does with the requests that a fault is for.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status and this code.
    Refuse(u16, &'static str),
    /// Answers with this content.
    Answer(u16, String),
    /// Accepts the request and never answers.
    Hang,
    /// Answers later.
    Slow(Duration),
    /// Carries it out and closes the connection without an answer.
    Lose,
    /// Says that the content has another length.
    WrongLength,
}

/// Whether a fault is for a request, by method and target.
pub type Matches = fn(&Method, &str) -> bool;

#[derive(Default)]
struct Faults {
    next: Vec<(Matches, Fault)>,
    requests: Vec<String>,
}

/// See the module. It ends with the runtime.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    directory: PathBuf,
    faults: Arc<Mutex<Faults>>,
    open: Arc<AtomicUsize>,
}

type Answer = Response<BoxBody<Bytes, s3s::StdError>>;

impl Peer {
    /// A service with an empty bucket, in `directory`.
    pub async fn start(directory: &Path) -> Self {
        Self::start_with(directory, None).await
    }

    /// [`Self::start`] over TLS, with a certificate for `localhost`; the second value is its PEM.
    pub async fn start_tls(directory: &Path) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::start_with(directory, Some(acceptor)).await, made.cert.pem())
    }

    async fn start_with(directory: &Path, tls: Option<TlsAcceptor>) -> Self {
        std::fs::create_dir_all(directory.join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            directory: directory.to_owned(),
            faults: Arc::default(),
            open: Arc::default(),
        };
        let served = peer.clone();
        holdfast_tasks::spawn("peer", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (peer, service, tls) = (served.clone(), service.clone(), tls.clone());
                holdfast_tasks::spawn("peer-connection", async move {
                    peer.open.fetch_add(1, Ordering::SeqCst);
                    let handle = service_fn(|request| peer.answer(&service, request));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(socket), handle).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                drop(http.serve_connection(TokioIo::new(stream), handle).await);
                            }
                        }
                    }
                });
            }
        });
        peer
    }

    async fn answer(&self, service: &S3Service, request: Request<Incoming>) -> Result<Answer, s3s::StdError> {
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            faults.requests.push(format!("{method} {target}"));
            faults
                .next
                .iter()
                .find(|(matches, _)| matches(&method, &target))
                .map(|(_, fault)| fault.clone())
        };
        let told = |status, text: String| {
            let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {});
            let mut answer = Response::new(BoxBody::new(body.map_err(Into::into)));
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(answer)
        };
        let real = async || {
            let answered = service.call(request.map(s3s::Body::from)).await;
            let answer = answered.map_err(|error| s3s::StdError::from(format!("{error:?}")))?;
            Ok::<_, s3s::StdError>(answer.map(BoxBody::new))
        };
        match fault {
            Some(Fault::Refuse(status, code)) => {
                let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
                told(status, text)
            }
            Some(Fault::Answer(status, text)) => told(status, text),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                real().await
            }
            Some(Fault::Lose) => {
                real().await?;
                Err("lost".into())
            }
            Some(Fault::WrongLength) => {
                let mut answer = real().await?;
                answer.headers_mut().insert("content-length", 1.into());
                Ok(answer)
            }
            None => real().await,
        }
    }

    /// From now on `fault` is for the requests that match.
    pub fn fail(&self, matches: Matches, fault: Fault) {
        self.faults.lock().unwrap().next.push((matches, fault));
    }

    /// All requests are carried out again.
    pub fn heal(&self) {
        self.faults.lock().unwrap().next.clear();
    }

    /// How many requests that match have come.
    pub fn count(&self, matches: impl Fn(&str) -> bool) -> usize {
        let faults = self.faults.lock().unwrap();
        faults.requests.iter().filter(|request| matches(request)).count()
    }

    /// Connections that have been opened.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The content of an object, as any program with the directory finds it.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.directory.join(BUCKET).join(key)).ok()
    }

    /// Parts of uploads that have not ended.
    pub fn parts(&self) -> usize {
        let entries = std::fs::read_dir(&self.directory).unwrap();
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains("upload_id")
            })
            .count()
    }

    pub fn config(&self) -> S3Config {
        S3Config {
            endpoint: format!("http://{}", self.address),
            bucket: BUCKET.to_owned(),
            prefix: "hub".to_owned(),
            part_size: ByteSize::mib(5),
            request_timeout: HumanDuration::secs(4),
            answer_timeout: HumanDuration::secs(30),
            ..S3Config::default()
        }
    }

    /// The bucket, with its keys from the environment.
    pub fn bucket(&self, change: impl FnOnce(&mut S3Config)) -> Bucket {
        let mut config = self.config();
        change(&mut config);
        Bucket::open(&config, "box", &keys(SECRET)).unwrap()
    }
}

pub fn keys(secret: &str) -> Vec<(String, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID".to_owned(), KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), secret.to_owned()),
    ]
}
