//! Registry requests, one connection each.

use std::time::Duration;

use anyhow::Result;
use holdfast_swarm::http::Client;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::target::Transport;
use http::{Method, StatusCode};

use crate::scenario::block_on;

const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// One request about a device; the answer's status and body.
pub(crate) fn request(hub: &Hub, method: Method, device: &str) -> Result<(StatusCode, String)> {
    let token = hub.owner_token(TOKEN_LIFETIME)?;
    let path = format!("/devices/{device}?api-version=2021-04-12");
    let body = match method {
        Method::PUT => format!(r#"{{"deviceId":"{device}"}}"#).into_bytes(),
        _ => Vec::new(),
    };
    block_on(async {
        let tls = hub.tls(Transport::Tls13)?;
        let mut client = Client::connect(hub.https_address()?, &hub.0.host_name, tls.as_ref()).await?;
        let (status, body) = client.request(method, &path, Some(&token), body).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    })
}
