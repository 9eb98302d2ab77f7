//! Connecting to a hub's events endpoint with the command's login.

use std::time::Duration;

use holdfast_auth::{EventHubsConnection, sign};
use holdfast_client::connection_file::hub_name;
use holdfast_client::events::Client;

use crate::exit_code::{Failure, Outcome};
use crate::http::connect_tls;
use crate::hub::{Hub, expiry};

/// How long the reader's token is good for.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// An authenticated connection.
///
/// # Errors
/// When the hub cannot be reached or refuses.
pub(crate) async fn connect(hub: &Hub) -> Result<Client, Failure> {
    let port = hub
        .ports
        .amqp
        .ok_or_else(|| Failure::new(Outcome::Unreachable, "the hub does not serve AMQP"))?;
    let events = hub.events()?;
    let stream = connect_tls(hub, port).await?;
    let container = format!("holdfast-monitor-{}", std::process::id());
    let entity = events.entity_path.clone().unwrap_or_else(|| hub_name(&hub.host));
    let mut client = Client::open(Box::new(stream), &container, &hub.host, &entity).await?;
    let audience = format!("sb://{}/{entity}", events.host);
    client
        .put_token(&token(&events, &audience)?, &audience)
        .await
        .map_err(|error| {
            let text = format!("the hub does not let us read events: {error:#}");
            Failure::new(Outcome::Unauthorized, crate::output::escape(&text)).advise(
                "a policy needs ServiceConnect, as service and iothubowner have it; a principal IoT Hub Data Reader",
            )
        })?;
    Ok(client)
}

fn token(events: &EventHubsConnection, audience: &str) -> Result<String, Failure> {
    match (&events.token, &events.key) {
        (Some(token), _) => Ok(token.reveal().to_owned()),
        // Event Hubs clients sign with the key's text, not with the bytes that it encodes (Spec auth-and-limits §1.1).
        (None, Some(key)) => {
            let policy = events.policy.as_deref();
            Ok(sign(audience, key.reveal().as_bytes(), policy, expiry(TOKEN_LIFETIME)))
        }
        (None, None) => Err(Failure::new(
            Outcome::Unauthorized,
            "the login has neither key nor token",
        )),
    }
}
