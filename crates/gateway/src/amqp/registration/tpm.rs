//! The SASL mechanism `TPM` of a device that registers (Spec provisioning §5.2).
//!
//! Its outcome says that the exchange was carried out; the token proves the TPM with each request, like that of SASL PLAIN.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_amqp::SaslCode;
use holdfast_amqp::sasl_tpm::{CONTINUE, TpmExchange, TpmMessage, challenge_parts};
use holdfast_amqp_server::{Links, Purpose, Refused};
use holdfast_device_hub::Credential;
use holdfast_model::RefusalReason;
use holdfast_provisioning::{DeviceCall, ProvisioningError, TpmKeys};

use super::{Login, Registering, refused_early};
use crate::amqp::protocol;

/// A challenge that is being made, and the keys that it is for.
type Challenge = Pin<Box<dyn Future<Output = (Box<TpmKeys>, Result<Vec<u8>, ProvisioningError>)>>>;

/// The state of an exchange.
#[derive(Default)]
pub(super) struct TpmLogin {
    exchange: TpmExchange,
    id_scope: String,
    registration_id: String,
    endorsement_key: Vec<u8>,
    keys: Option<Box<TpmKeys>>,
    challenge: Option<Challenge>,
    /// The second part of the challenge.
    rest: Vec<u8>,
}

impl Registering {
    /// Takes the initial response or the answer to a challenge.
    pub(super) fn tpm_message(&mut self, links: &mut Links, bytes: &[u8]) {
        let Some(tpm) = &mut self.tpm else { return };
        let message = match tpm.exchange.receive(bytes) {
            Ok(message) => message,
            Err(violation) => {
                tracing::debug!(address = %links.address(), %violation, "SASL TPM is refused");
                return self.refuse_tpm(links, &Refused::credentials(RefusalReason::Malformed));
            }
        };
        match message {
            TpmMessage::Segment => links.engine().sasl_challenge(&CONTINUE),
            TpmMessage::Identity {
                id_scope,
                registration_id,
                endorsement_key,
            } => {
                tpm.registration_id = registration_id;
                tpm.endorsement_key = endorsement_key;
                match self.service.check_scope(&id_scope) {
                    Ok(_) => {
                        tpm.id_scope = id_scope;
                        links.engine().sasl_challenge(&CONTINUE);
                    }
                    Err(error) => self.refuse_tpm(links, &refused_early(error)),
                }
            }
            TpmMessage::StorageRootKey(storage_root_key) => {
                match TpmKeys::parse(&tpm.endorsement_key, &storage_root_key) {
                    Ok(keys) => self.begin_challenge(links, Box::new(keys)),
                    Err(error) => self.refuse_tpm(
                        links,
                        &Refused {
                            reason: Some(RefusalReason::Malformed),
                            ..Refused::new(error.code, error.text)
                        },
                    ),
                }
            }
            TpmMessage::Continue => {
                let rest = std::mem::take(&mut tpm.rest);
                links.engine().sasl_challenge(&rest);
            }
            TpmMessage::Token(token) => {
                if let Some(tpm) = self.tpm.take() {
                    self.login = Some(Rc::new(Login {
                        id_scope: tpm.id_scope,
                        registration_id: tpm.registration_id,
                        token: Some(token),
                        tpm: tpm.keys,
                    }));
                }
                links.engine().sasl_outcome(SaslCode::Ok);
            }
        }
    }

    fn begin_challenge(&mut self, links: &Links, keys: Box<TpmKeys>) {
        let Some(tpm) = &mut self.tpm else { return };
        let service = Arc::clone(&self.service);
        let (id_scope, registration_id) = (tpm.id_scope.clone(), tpm.registration_id.clone());
        let (protocol, address) = (protocol(links.carrier()), links.address());
        tpm.challenge = Some(Box::pin(async move {
            let call = DeviceCall {
                id_scope: &id_scope,
                registration_id: &registration_id,
                credential: Credential::None,
                protocol,
                address,
            };
            let mut challenge = service.challenge(&call, &keys).await;
            if let Err(error) = &mut challenge {
                error.served().await;
                // A client hears of it with its registration; Node's does not hear of SASL that fails here.
                if error.reason.is_some() {
                    challenge = service.void_challenge(&keys);
                }
            }
            (keys, challenge)
        }));
    }

    /// Sends the challenge once it is made.
    pub(super) fn poll_challenge(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        let Some(tpm) = &mut self.tpm else { return };
        let Some(challenge) = &mut tpm.challenge else { return };
        let Poll::Ready((keys, challenge)) = challenge.as_mut().poll(cx) else {
            return;
        };
        tpm.challenge = None;
        match challenge {
            Ok(challenge) => {
                // A challenge fits into its two parts: its text is bounded.
                let Some([first, rest]) = challenge_parts(&challenge) else {
                    return links.engine().sasl_outcome(SaslCode::System);
                };
                tpm.keys = Some(keys);
                tpm.rest = rest;
                links.engine().sasl_challenge(&first);
            }
            Err(error) if error.code.retriable() => links.engine().sasl_outcome(SaslCode::Temporary),
            Err(error) => self.refuse_tpm(links, &refused_early(error)),
        }
    }

    fn refuse_tpm(&mut self, links: &mut Links, refused: &Refused) {
        let tpm = self.tpm.take();
        let identity = tpm.map_or_else(String::new, |tpm| tpm.registration_id);
        links.refuse_sasl(&identity, Purpose::Registration, refused);
    }
}
