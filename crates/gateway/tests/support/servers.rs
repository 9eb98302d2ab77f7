//! Servers that the provisioning service calls, in memory.

use std::pin::Pin;
use std::time::Duration;

use holdfast_provisioning::{Outbound, OutboundAnswer, OutboundError, OutboundRequest};
use holdfast_tasks::sync::Mutex;

/// What becomes of a request.
pub(crate) enum Reaction {
    Answer(u16, String),
    Late(Duration, u16, String),
    /// None within any time.
    Silence,
    /// The server cannot be reached.
    Unreachable,
}

type React = Box<dyn FnMut(&OutboundRequest) -> Reaction + Send>;

/// All of them.
#[derive(Default)]
pub(crate) struct Servers {
    pub(crate) calls: Mutex<Vec<OutboundRequest>>,
    react: Mutex<Option<React>>,
}

impl Servers {
    /// How they react from now on.
    pub(crate) fn react(&self, react: impl FnMut(&OutboundRequest) -> Reaction + Send + 'static) {
        *self.react.lock() = Some(Box::new(react));
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.lock().len()
    }
}

impl Outbound for Servers {
    fn send(
        &self,
        request: OutboundRequest,
    ) -> Pin<Box<dyn Future<Output = Result<OutboundAnswer, OutboundError>> + Send + '_>> {
        let reaction = match &mut *self.react.lock() {
            Some(react) => react(&request),
            None => Reaction::Unreachable,
        };
        let timeout = request.timeout;
        self.calls.lock().push(request);
        Box::pin(async move {
            let (may_have_been_sent, text) = match reaction {
                Reaction::Answer(status, body) => {
                    let body = body.into_bytes();
                    return Ok(OutboundAnswer { status, body });
                }
                Reaction::Late(delay, status, body) => {
                    tokio::time::sleep(delay).await;
                    let body = body.into_bytes();
                    return Ok(OutboundAnswer { status, body });
                }
                Reaction::Silence => {
                    tokio::time::sleep(timeout).await;
                    (true, "no answer in time")
                }
                Reaction::Unreachable => (false, "cannot connect"),
            };
            let text = text.to_owned();
            Err(OutboundError {
                may_have_been_sent,
                text,
            })
        })
    }
}
