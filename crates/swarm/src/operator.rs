//! An operator's REST calls: CAs, policies and single devices of a hub.
//!
//! Invariant: a refusal is an error with the hub's own text.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::certificates::{self, DeviceCa};
use crate::http::Client;
use crate::hub::Hub;
use crate::target::Transport;

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Of a refusal's text.
const SHOWN_BYTES: usize = 400;

/// A connection of an operator with all rights.
pub struct Operator {
    client: Client,
    token: String,
}

impl Operator {
    /// Connects to `hub`.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(hub: &Hub) -> Result<Self> {
        let tls = hub.tls(Transport::Tls13)?;
        Ok(Self {
            client: Client::connect(hub.https_address()?, &hub.0.host_name, tls.as_ref()).await?,
            token: hub.owner_token(TOKEN_LIFETIME)?,
        })
    }

    /// Makes a call that must succeed; its answer, `null` for an empty one.
    ///
    /// # Errors
    /// When the connection breaks or the hub refuses.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.call_if(method, path, None, body).await
    }

    async fn call_if(
        &mut self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value> {
        let mut headers: Vec<(HeaderName, &str)> = vec![(header::AUTHORIZATION, &self.token)];
        headers.extend(if_match.map(|etag| (header::IF_MATCH, etag)));
        headers.extend(body.map(|_| (header::CONTENT_TYPE, "application/json")));
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let (status, answer) = self.client.request_with(method.clone(), path, &headers, bytes).await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&answer);
            let text = &text[..text.floor_char_boundary(SHOWN_BYTES)];
            bail!("{method} {path}: the hub answers {status}: {text}");
        }
        if answer.is_empty() || status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: no JSON"))
    }

    /// Registers `ca` as `name`, in place of another CA of this name, as verified.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn put_ca(&mut self, name: &str, ca: &DeviceCa) -> Result<()> {
        let exists = self.ca_names().await?.iter().any(|known| known == name);
        self.put_verified(name, ca, exists.then_some("*")).await
    }

    /// Registers `ca` as `name`, which is not registered yet, as verified.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn put_new_ca(&mut self, name: &str, ca: &DeviceCa) -> Result<()> {
        self.put_verified(name, ca, None).await
    }

    async fn put_verified(&mut self, name: &str, ca: &DeviceCa, if_match: Option<&str>) -> Result<()> {
        let body = json!({"properties": {"certificate": certificates::pem(ca.der()), "isVerified": true}});
        self.call_if(Method::PUT, &ca_path(name), if_match, Some(&body))
            .await
            .map(drop)
    }

    /// Registers `ca` as `name` and proves that its key is there, as an operator does.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn add_ca_with_proof(&mut self, name: &str, ca: &DeviceCa) -> Result<()> {
        let path = ca_path(name);
        let body = json!({"properties": {"certificate": certificates::pem(ca.der())}});
        self.call(Method::PUT, &path, Some(&body)).await?;
        let code = self
            .call(Method::POST, &format!("{path}/generateVerificationCode"), None)
            .await?;
        let code = code["properties"]["verificationCode"].as_str();
        let proof = ca.issue(code.context("no verification code")?)?;
        let body = json!({"properties": {"certificate": STANDARD.encode(proof.der())}});
        self.call(Method::POST, &format!("{path}/verify"), Some(&body))
            .await
            .map(drop)
    }

    /// Removes the CA `name`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn remove_ca(&mut self, name: &str) -> Result<()> {
        self.call_if(Method::DELETE, &ca_path(name), Some("*"), None)
            .await
            .map(drop)
    }

    /// The names of the hub's CAs.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn ca_names(&mut self) -> Result<Vec<String>> {
        let list = self.call(Method::GET, CAS, None).await?;
        let list = list["value"].as_array().context("no list of CAs")?;
        let names = list.iter().filter_map(|ca| ca["name"].as_str().map(str::to_owned));
        Ok(names.collect())
    }

    /// Gives the existing device `name` another `authentication`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn update_device(&mut self, name: &str, authentication: Value) -> Result<()> {
        let body = json!({"deviceId": name, "status": "enabled", "authentication": authentication});
        let path = format!("/devices/{name}?api-version=2021-04-12");
        self.call_if(Method::PUT, &path, Some("*"), Some(&body)).await.map(drop)
    }
}

/// Where the REST API has CAs (Spec rest §10).
const CAS: &str = "/holdfast/v1/certificates";

fn ca_path(name: &str) -> String {
    format!("{CAS}/{name}")
}
