//! Calls the signers of issuing CAs whose keys are outside of the hub (docs/provisioning.md).
//!
//! Invariants: one call is bounded in time and in bytes of the answer; a call is not repeated, since the device registers again; what a
//! signer answers is checked by `provisioning`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_provisioning::{CallSigner, ProvisioningConfig, SignerAnswer, SignerCall, SignerFuture};
use http::{HeaderName, Method, Uri, header};

use super::outbound::connect;

/// Largest answer that is read: a chain of ten certificates in base64.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Makes calls with the time limit and the CAs of the configuration.
pub(super) fn caller(config: &ProvisioningConfig) -> Arc<CallSigner> {
    let limit: Duration = config.signer_timeout.get();
    let ca_file = config.signer_ca_file.clone();
    Arc::new(move |call: SignerCall| {
        let ca_file = ca_file.clone();
        let made: SignerFuture = Box::pin(async move {
            match tokio::time::timeout(limit, post(call, ca_file)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(format!("the signer cannot be called: {error:#}")),
                Err(_) => Err(format!("the signer did not answer within {} ms", limit.as_millis())),
            }
        });
        made
    })
}

async fn post(call: SignerCall, ca_file: Option<PathBuf>) -> Result<SignerAnswer> {
    let url: Uri = call.url.parse().context("the URL cannot be read")?;
    let authority = url.authority().context("the URL has no host")?;
    let is_tls = url.scheme_str() == Some("https");
    let mut connection = connect(authority, is_tls, ca_file, MAX_ANSWER_BYTES).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let token = call.token.map(|token| format!("Bearer {token}"));
    let mut headers: Vec<(HeaderName, &str)> = vec![
        (header::USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION"))),
        (header::CONTENT_TYPE, "application/json"),
    ];
    if let Some(token) = &token {
        headers.push((header::AUTHORIZATION, token));
    }
    let answer = connection
        .request(Method::POST, path, &headers, call.body.into_bytes())
        .await?;
    Ok(SignerAnswer {
        status: answer.status.as_u16(),
        body: answer.body.to_vec(),
    })
}
