//! An issuer of bearer tokens: keys of every kind, tokens of any content, and an HTTPS server with its documents.
//!
//! On threads of its own, so that tests with a paused clock can use it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_tasks::sync::Mutex;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A private key of an issuer.
pub struct SigningKey {
    /// Its name in tokens and in the key set.
    pub id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// base64 for URLs, as tokens have it.
#[must_use]
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    /// An RSA key of 2048 bits.
    #[must_use]
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        Self::new(id, Pair::Rsa(Box::new(pair)))
    }

    /// A key on P-256.
    #[must_use]
    pub fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::new(id, Pair::P256(pair))
    }

    /// A key on P-384.
    #[must_use]
    pub fn p384(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self::new(id, Pair::P384(pair))
    }

    /// An Ed25519 key.
    #[must_use]
    pub fn ed25519(id: &str) -> Self {
        Self::new(id, Pair::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    fn new(id: &str, pair: Pair) -> Self {
        Self {
            id: id.to_owned(),
            pair,
        }
    }

    /// Its public part in the key set.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = |curve: &str, pair: &EcdsaKeyPair| {
            // An uncompressed point: 4, x, y.
            let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
            Pair::P256(pair) => point("P-256", pair),
            Pair::P384(pair) => point("P-384", pair),
            Pair::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}),
        };
        jwk["kid"] = self.id.as_str().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The first algorithm of its kind.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// A token with these claims, by its first algorithm.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.token_by(self.algorithm(), claims)
    }

    /// A token by one of its algorithms.
    #[must_use]
    pub fn token_by(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": self.id});
        self.sign(algorithm, &header.to_string(), &claims.to_string())
    }

    /// A token of any header and claims, signed as `algorithm` says, whatever the header says.
    #[must_use]
    pub fn sign(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// Modulus and exponent of a public key in DER (PKCS 1).
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // Tag, length, and the rest behind the value.
    fn next(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match der[1] {
            short @ 0..=127 => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => (usize::from(u16::from_be_bytes([der[2], der[3]])), 4),
        };
        der[at..].split_at(length)
    }
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    let (numbers, _) = next(der);
    let (n, rest) = next(numbers);
    let (e, _) = next(rest);
    (number(n), number(e))
}

/// `{"keys":[…]}` of `keys`.
#[must_use]
pub fn key_set(keys: &[&SigningKey]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({"keys": keys}).to_string().into_bytes()
}

/// An issuer's HTTPS server on loopback, with a CA of its own.
pub struct IssuerServer {
    /// `https://localhost:PORT`.
    pub url: String,
    /// The CA's certificate, PEM.
    pub ca_file: PathBuf,
    shared: Arc<Served>,
    _dir: tempfile::TempDir,
}

struct Served {
    url: String,
    keys: Mutex<Vec<u8>>,
    is_down: AtomicBool,
    key_requests: AtomicUsize,
}

impl IssuerServer {
    /// Serves the discovery document and these keys.
    #[must_use]
    pub fn start(keys: &[&SigningKey]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf
            .signed_by(&key, &rcgen::Issuer::from_params(&params, &ca_key))
            .unwrap();
        let ca_file = dir.path().join("issuer-ca.pem");
        std::fs::write(&ca_file, ca.pem()).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Served {
            url: url.clone(),
            keys: Mutex::new(key_set(keys)),
            is_down: AtomicBool::new(false),
            key_requests: AtomicUsize::new(0),
        });
        let (serving, config) = (Arc::clone(&shared), Arc::new(config));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (serving, config) = (Arc::clone(&serving), Arc::clone(&config));
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || socket.is_ok_and(|socket| serving.answer(socket, config).is_ok()));
            }
        });
        Self {
            url,
            ca_file,
            shared,
            _dir: dir,
        }
    }

    /// Replaces the keys.
    pub fn rotate(&self, keys: &[&SigningKey]) {
        self.set_document(key_set(keys));
    }

    /// Replaces the document with the keys by any bytes.
    pub fn set_document(&self, document: Vec<u8>) {
        *self.shared.keys.lock() = document;
    }

    /// Whether it answers with an error to everything.
    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::SeqCst);
    }

    /// How often its keys were requested.
    #[must_use]
    pub fn key_requests(&self) -> usize {
        self.shared.key_requests.load(Ordering::SeqCst)
    }
}

impl Served {
    fn answer(&self, socket: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
        let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (mut status, body) = match path {
            "/.well-known/openid-configuration" => {
                let document = json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)});
                ("200 OK", document.to_string().into_bytes())
            }
            "/keys" => {
                self.key_requests.fetch_add(1, Ordering::SeqCst);
                ("200 OK", self.keys.lock().clone())
            }
            _ => ("404 Not Found", Vec::new()),
        };
        if self.is_down.load(Ordering::SeqCst) {
            status = "503 Service Unavailable";
        }
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)?;
        stream.conn.send_close_notify();
        stream.flush()
    }
}
