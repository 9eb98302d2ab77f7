//! A back end: one request after the other to the REST endpoint, of the three kinds in turn.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::traffic::Traffic;
use crate::http::Client;
use crate::target::{DeviceNames, Tls};

/// What a back end requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A patch of desired properties.
    Patch,
    /// A direct method.
    Method,
    /// A message to the device.
    Message,
}

impl Kind {
    pub(super) fn of(number: u32) -> Self {
        match number % 3 {
            0 => Self::Patch,
            1 => Self::Method,
            _ => Self::Message,
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Patch => Self::Method,
            Self::Method => Self::Message,
            Self::Message => Self::Patch,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Patch => "a patch",
            Self::Method => "a method",
            Self::Message => "a message to a device",
        }
    }
}

/// One back end.
pub(super) struct BackEnd {
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) host: String,
    pub(super) tls: Option<Tls>,
    pub(super) token: String,
    /// Its number; its node and its devices follow from it.
    pub(super) index: u32,
    /// Between two requests.
    pub(super) every: Duration,
    pub(super) names: DeviceNames,
    pub(super) first: u32,
    pub(super) devices: u32,
    pub(super) traffic: Rc<Traffic>,
}

impl BackEnd {
    pub(super) async fn connect(&self) -> Result<Client> {
        let node = self.nodes[self.index as usize % self.nodes.len()];
        Client::connect(node, &self.host, self.tls.as_ref()).await
    }

    /// Makes requests until the run is over, or its connection is lost.
    pub(super) async fn run(self, mut client: Client, first: Kind, over: Rc<Cell<bool>>) {
        let mut kind = first;
        // All devices in turn, each back end from another one on.
        let mut place = self.index.wrapping_mul(7919) % self.devices;
        let mut next = Instant::now() + self.every.mul_f64(f64::from(self.index % 97) / 97.0);
        while !over.get() {
            tokio::time::sleep_until(next).await;
            // After a late answer requests are not made up for: that would be another load.
            next = (next + self.every).max(Instant::now());
            if over.get() {
                return;
            }
            if let Err(error) = self.call(&mut client, kind, place).await {
                return self.traffic.error(format!("a back end: {error:#}"));
            }
            kind = kind.next();
            place = (place + 1) % self.devices;
        }
    }

    async fn call(&self, client: &mut Client, kind: Kind, place: u32) -> Result<()> {
        let device = self.names.name(self.first + place);
        let now_us = self.traffic.now_us();
        let (method, path, body) = match kind {
            Kind::Patch => (
                Method::PATCH,
                format!("/twins/{device}?api-version=2021-04-12"),
                format!(r#"{{"properties":{{"desired":{{"n":{now_us}}}}}}}"#),
            ),
            Kind::Method => (
                Method::POST,
                format!("/twins/{device}/methods?api-version=2021-04-12"),
                format!(r#"{{"methodName":"measure","payload":{{"n":{now_us}}},"responseTimeoutInSeconds":30}}"#),
            ),
            Kind::Message => (
                Method::POST,
                format!("/holdfast/v1/devices/{device}/c2d"),
                format!(r#"{{"payload":"{{\"n\":{now_us}}}"}}"#),
            ),
        };
        let token = Some(self.token.as_str());
        let (status, _) = client.request(method, &path, token, body.into_bytes()).await?;
        let traffic = &self.traffic;
        match kind {
            _ if !matches!(status, StatusCode::OK | StatusCode::CREATED) => {
                traffic.error(format!("{} is answered with {status}", kind.name()));
            }
            Kind::Method => traffic.methods.add(traffic.now_us() - now_us),
            Kind::Patch => traffic.desired_sent.set(traffic.desired_sent.get() + 1),
            Kind::Message => traffic.messages_sent.set(traffic.messages_sent.get() + 1),
        }
        Ok(())
    }
}
