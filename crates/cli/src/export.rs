//! Reading a hub for a backup: its facts, and the state of each group as a stream (`/holdfast/v1/backup`).
//!
//! ```text
//! body of a group   frame, frame, …      frame: kind 1 │ length 4 │ content
//! kind              0 a chunk of the export · 1 why there are no more, as text
//! ```
//!
//! Not here: what a chunk means, and what becomes of it (`backup`).

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::http::{BodyStream, Connection};
use http::{Method, header};
use serde_json::Value;

use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, call, connect_tls, refusal};
use crate::hub::{Hub, LoginArgs};
use crate::output::escape;

const PATH: &str = "/holdfast/v1/backup";
/// Longer than any chunk, and than any reason.
const MAX_FRAME_BYTES: usize = 2 << 20;
/// How long the hub may take for the next frame: it waits for a turn, and for its disk.
const FRAME_TIMEOUT: Duration = Duration::from_secs(120);
/// The most of a refusal that is read.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// A hub whose state is read.
pub struct ExportClient(Hub);

impl ExportClient {
    /// The hub of a login.
    ///
    /// # Errors
    /// Says which ways there are to name one.
    pub fn new(login: &LoginArgs) -> Result<Self, Failure> {
        Ok(Self(login.hub()?))
    }

    /// What the hub says of itself.
    ///
    /// # Errors
    /// The hub's own message, or why it could not be reached.
    pub async fn facts(&self) -> Result<Value, Failure> {
        call(&self.0, Call::new(Method::GET, PATH.to_owned())).await
    }

    /// Begins to read `group`; `log` is `none`, `all`, or the index of the last entry that is not wanted.
    ///
    /// # Errors
    /// As [`Self::facts`].
    pub async fn group(&self, group: u32, log: &str) -> Result<ExportStream, Failure> {
        let hub = &self.0;
        let port = hub
            .ports
            .https
            .ok_or_else(|| Failure::new(Outcome::Unreachable, "the hub does not serve HTTPS"))?;
        let stream = connect_tls(hub, port).await?;
        let token = hub.token()?;
        let broken = |error: anyhow::Error| {
            let text = format!("the connection to the hub broke: {error:#}");
            Failure::new(Outcome::Unreachable, text)
        };
        let begin = async {
            let connection = Connection::open(stream, &hub.host).await?;
            let path = format!("{PATH}/groups/{group}?log={log}");
            connection.stream(&path, &[(header::AUTHORIZATION, &token)]).await
        };
        let begun = tokio::time::timeout(FRAME_TIMEOUT, begin).await;
        let (status, body) = begun.map_err(|_| silent())?.map_err(broken)?;
        if status.is_success() {
            return Ok(ExportStream(body));
        }
        let text = body.rest(MAX_REFUSAL_BYTES).await.map_err(broken)?;
        let json = serde_json::from_slice(&text).unwrap_or(Value::Null);
        Err(refusal(status, &json, &text))
    }
}

fn silent() -> Failure {
    let text = format!("the hub has sent nothing for {} s", FRAME_TIMEOUT.as_secs());
    Failure::new(Outcome::Unreachable, text)
}

/// The chunks of a group.
pub struct ExportStream(BodyStream);

impl ExportStream {
    /// The next chunk; `None` at the end of the stream.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let next = tokio::time::timeout(FRAME_TIMEOUT, self.frame());
        match next.await.map_err(|_| silent().message)? {
            Ok(Some((0, content))) => Ok(Some(content)),
            Ok(Some((_, reason))) => Err(escape(&String::from_utf8_lossy(&reason)).into_owned()),
            Ok(None) => Ok(None),
            Err(error) => Err(format!("the connection to the hub broke: {error:#}")),
        }
    }

    async fn frame(&mut self) -> anyhow::Result<Option<(u8, Bytes)>> {
        let Some(head) = self.0.take(5).await? else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        anyhow::ensure!(length <= MAX_FRAME_BYTES, "a frame is too long");
        let content = self.0.take(length).await?;
        let content = content.filter(|content| content.len() == length);
        let content = content.ok_or_else(|| anyhow::anyhow!("the answer ends in the middle"))?;
        Ok(Some((head[0], content)))
    }
}
