//! Devices that register with the provisioning service over AMQP (Spec provisioning §5).
//!
//! The SASL user, or without one the address of the first link, says which device it is; its connection shares port and engine with
//! those of hubs.
//! Invariants: a connection registers one device; one request is carried out at a time; a request is accepted before its reply
//! leaves, and a refused one has no reply; each request proves the credential anew; a connection without a successful request for a
//! minute is closed, by the rule for connections that have not authenticated.
//! Not here: who the device is and where it belongs (`provisioning`).

mod message;
mod tpm;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_amqp::address::{self, Endpoint};
use holdfast_amqp::message::Request;
use holdfast_amqp::{Accept, Attach, Incoming, LinkId, Outcome, Role, SaslCode, SaslInit};
use holdfast_amqp_server::{
    Answered, AuthorizationChange, Certainty, Leaving, LinkHandler, LinkService, Links, Purpose, Refused, RequestNode,
};
use holdfast_device_hub::{Credential, Protocol};
use holdfast_model::{CertificateChain, ErrorCode, RefusalReason};
use holdfast_provisioning::{Answer, DeviceCall, Provisioning, ProvisioningError, TpmKeys, check_version};

use self::message::{Operation, Reply, Work};
use self::tpm::TpmLogin;
use super::protocol;

/// Links of one connection; clients have two.
const MAX_LINKS: usize = 8;

/// The link property with the version of the API.
const API_VERSION: &str = "com.microsoft:api-version";

/// One core's AMQP front end of the provisioning service.
pub struct AmqpRegistration(Arc<Provisioning>);

impl AmqpRegistration {
    /// The front end of `service`.
    #[must_use]
    pub fn new(service: Arc<Provisioning>) -> Self {
        Self(service)
    }
}

impl LinkService for AmqpRegistration {
    fn connect(&self) -> Box<dyn LinkHandler> {
        Box::new(Registering {
            service: Arc::clone(&self.0),
            login: None,
            version: None,
            requests: Vec::new(),
            replies: Vec::new(),
            request: None,
            tpm: None,
        })
    }

    fn takes_tpm(&self) -> bool {
        true
    }
}

/// The device of a connection.
struct Login {
    id_scope: String,
    registration_id: String,
    token: Option<String>,
    /// The TPM that has signed the token.
    tpm: Option<Box<TpmKeys>>,
}

impl Login {
    fn is_of(&self, id_scope: &str, registration_id: &str) -> bool {
        self.id_scope.eq_ignore_ascii_case(id_scope) && self.registration_id.eq_ignore_ascii_case(registration_id)
    }
}

/// A request that is carried out, and the delivery that it came with.
struct InProgress {
    link: LinkId,
    delivery_id: u32,
    is_settled: bool,
    /// The request's correlation id, encoded.
    correlation_id: Option<Box<[u8]>>,
    outcome: Pin<Box<dyn Future<Output = Result<Answer, ProvisioningError>>>>,
}

/// The provisioning service's part of one connection.
struct Registering {
    service: Arc<Provisioning>,
    login: Option<Rc<Login>>,
    /// Of the API, as a link has named it last.
    version: Option<String>,
    /// Links on which the client sends.
    requests: Vec<LinkId>,
    /// Links on which it receives; newest last.
    replies: Vec<LinkId>,
    request: Option<InProgress>,
    /// Of the mechanism `TPM`, until its outcome.
    tpm: Option<Box<TpmLogin>>,
}

impl Registering {
    /// Whether `scope` can be an id scope; a device of the hub may be named "registrations".
    fn is_scope(&self, scope: &str) -> bool {
        !self.service.hub().hub_names().contains(scope)
    }

    /// Takes SASL PLAIN of a device that registers; `false`: it is of someone else.
    fn plain(&mut self, links: &mut Links, init: &SaslInit<'_>) -> bool {
        let Some((user, password)) = init.plain() else {
            return false;
        };
        let Endpoint::Registration {
            id_scope,
            registration_id,
        } = address::parse(user)
        else {
            return false;
        };
        if !self.is_scope(&id_scope) {
            return false;
        }
        let checked = match (self.service.check_scope(&id_scope), password.is_empty()) {
            (Err(error), _) => Err(refused_early(error)),
            (Ok(_), true) => Err(Refused::credentials(RefusalReason::Missing)),
            (Ok(_), false) => Ok(()),
        };
        match checked {
            Ok(()) => {
                self.login = Some(Rc::new(Login {
                    id_scope: id_scope.into_owned(),
                    registration_id: registration_id.into_owned(),
                    token: Some(password.to_owned()),
                    tpm: None,
                }));
                links.engine().sasl_outcome(SaslCode::Ok);
            }
            Err(refused) => links.refuse_sasl(&registration_id, Purpose::Registration, &refused),
        }
        true
    }

    /// The rule that an attach breaks. Without SASL, the first link names the device.
    fn check_attach(
        &mut self,
        links: &Links,
        attach: &Attach<'_>,
        id_scope: &str,
        registration_id: &str,
    ) -> Result<(), Refused> {
        if self.requests.len() + self.replies.len() >= MAX_LINKS {
            let text = format!("a connection that registers a device has at most {MAX_LINKS} links");
            return Err(Refused::new(ErrorCode::ThrottlingException, text));
        }
        let version = attach.property(API_VERSION).ok().flatten();
        // Not every client sends it with both links.
        if let Some(version) = version {
            check_version(version.text()).map_err(|text| Refused {
                reason: Some(RefusalReason::Version),
                ..Refused::new(ErrorCode::InvalidProtocolVersion, text).with_condition(message::ARGUMENT_ERROR)
            })?;
            self.version = version.text().map(str::to_owned);
        }
        match &self.login {
            Some(login) if login.is_of(id_scope, registration_id) => Ok(()),
            Some(_) => Err(unauthorized(RefusalReason::IdentityMismatch)),
            None => {
                self.service.check_scope(id_scope).map_err(refused_early)?;
                if links.certificates().is_none() {
                    return Err(unauthorized(RefusalReason::Missing));
                }
                self.login = Some(Rc::new(Login {
                    id_scope: id_scope.to_owned(),
                    registration_id: registration_id.to_owned(),
                    token: None,
                    tpm: None,
                }));
                Ok(())
            }
        }
    }

    /// Begins a request, or refuses it at once.
    fn begin(&mut self, links: &Links, login: &Rc<Login>, incoming: &Incoming<'_>) {
        let work = Work::read(&incoming.payload, &login.registration_id, self.version.as_deref());
        let correlation_id = work.correlation_id;
        let caller = Caller {
            service: Arc::clone(&self.service),
            login: Rc::clone(login),
            certificates: links.certificates().cloned(),
            protocol: protocol(links.carrier()),
            address: links.address(),
        };
        self.request = Some(InProgress {
            link: incoming.link,
            delivery_id: incoming.delivery_id,
            is_settled: incoming.settled,
            correlation_id,
            outcome: Box::pin(caller.carried_out(work.operation)),
        });
    }

    /// The link for replies to requests on `link`: the newest of its session, else the newest.
    fn reply_link(&self, link: LinkId) -> Option<LinkId> {
        let mut newest = self.replies.iter().rev();
        let same = newest.find(|reply| reply.session() == link.session());
        same.or(self.replies.last()).copied()
    }

    /// Answers a request.
    fn finish(&self, links: &mut Links, request: &InProgress, outcome: Result<Answer, ProvisioningError>) {
        let (link, id) = (request.link, request.delivery_id);
        match outcome {
            Ok(answer) => {
                links.authenticated();
                if !request.is_settled {
                    links.engine().settle(link, id, id, &Outcome::Accepted);
                }
                let reply = message::reply(&answer, request.correlation_id.as_deref());
                links.respond(self.reply_link(link), reply);
            }
            Err(error) => {
                let now = self.service.hub().clock().now();
                Reply::of_error(&error, now).with_outcome(|outcome| {
                    if !request.is_settled {
                        links.engine().settle(link, id, id, outcome);
                    }
                });
            }
        }
        links.engine().top_up(link, 1);
    }
}

/// The connection's part of a call.
struct Caller {
    service: Arc<Provisioning>,
    login: Rc<Login>,
    certificates: Option<CertificateChain>,
    protocol: Protocol,
    address: std::net::SocketAddr,
}

impl Caller {
    /// Carries out an operation; a penalty has been served when it ends.
    async fn carried_out(self, operation: Result<Operation, ProvisioningError>) -> Result<Answer, ProvisioningError> {
        let call = DeviceCall {
            id_scope: &self.login.id_scope,
            registration_id: &self.login.registration_id,
            credential: Credential::new(self.login.token.as_deref(), self.certificates.as_ref()),
            protocol: self.protocol,
            address: self.address,
        };
        let mut outcome = match operation {
            Ok(Operation::Register(mut body)) => {
                body.tpm = self.login.tpm.clone().or(body.tpm);
                self.service.register(&call, &body).await
            }
            Ok(Operation::Status(operation_id)) => self.service.operation(&call, &operation_id).await,
            Ok(Operation::LookUp(body)) => self.service.look_up(&call, &body).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &mut outcome {
            error.served().await;
        }
        outcome
    }
}

/// The refusal of a client before its credential is checked.
fn refused_early(error: ProvisioningError) -> Refused {
    let reason = (error.code == ErrorCode::IdScopeNotFound).then_some(RefusalReason::Scope);
    Refused {
        reason,
        ..Refused::new(error.code, error.text).with_condition(message::condition(error.code))
    }
}

fn unauthorized(reason: RefusalReason) -> Refused {
    Refused {
        reason: Some(reason),
        ..Refused::new(ErrorCode::GenericUnauthorized, "Unauthorized").with_condition("amqp:unauthorized-access")
    }
}

impl LinkHandler for Registering {
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool {
        matches!(endpoint, Endpoint::Registration { id_scope, .. } if self.is_scope(id_scope))
    }

    fn attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused> {
        let Endpoint::Registration {
            id_scope,
            registration_id,
        } = endpoint
        else {
            return Ok(());
        };
        self.check_attach(links, attach, &id_scope, &registration_id)?;
        match attach.role {
            Role::Sender => {
                self.requests.push(link);
                let one = Accept {
                    credit: 1,
                    ..Accept::default()
                };
                links.accept(link, &one);
            }
            Role::Receiver => {
                self.replies.push(link);
                links.accept(link, &Accept::default());
            }
        }
        Ok(())
    }

    fn node_of(&self, _: LinkId) -> Option<&RequestNode> {
        None
    }

    fn request(&mut self, _: &mut Links, _: LinkId, _: &Request<'_>, _: Certainty) -> Answered {
        Answered::Later
    }

    fn takes_messages(&self, link: LinkId) -> bool {
        self.requests.contains(&link)
    }

    fn message(&mut self, links: &mut Links, incoming: &Incoming<'_>) {
        let Some(login) = self.login.clone() else { return };
        if self.request.is_none() {
            return self.begin(links, &login, incoming);
        }
        // A client with several links, or one that takes no notice of its credit.
        let text = "another request of the connection is in progress";
        let error = ProvisioningError::new(ErrorCode::ThrottlingException, text);
        let (link, id, now) = (incoming.link, incoming.delivery_id, self.service.hub().clock().now());
        if !incoming.settled {
            Reply::of_error(&error, now).with_outcome(|outcome| links.engine().settle(link, id, id, outcome));
        }
        links.engine().top_up(link, 1);
    }

    fn drain(&mut self, _: LinkId, _: bool) -> bool {
        // The connection sends the replies that wait for credit.
        false
    }

    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        self.poll_challenge(links, cx);
        let Some(mut request) = self.request.take() else { return };
        match request.outcome.as_mut().poll(cx) {
            Poll::Ready(outcome) => self.finish(links, &request, outcome),
            Poll::Pending => self.request = Some(request),
        }
    }

    fn recheck(&mut self, _: &mut Links, _: AuthorizationChange) {
        // Each request proves the credential anew.
    }

    fn leave(&mut self, links: &mut Links, _: Leaving) {
        if self.request.is_none() {
            for link in self.requests.iter().chain(&self.replies) {
                links.send_away(*link);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.request.is_some()
    }

    fn sasl_begun(&mut self, links: &mut Links, init: &SaslInit<'_>) -> bool {
        match init.mechanism {
            "PLAIN" => self.plain(links, init),
            "TPM" => {
                self.tpm = Some(Box::default());
                self.tpm_message(links, init.initial_response.unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    fn sasl_response(&mut self, links: &mut Links, response: &[u8]) -> bool {
        if self.tpm.is_none() {
            return false;
        }
        self.tpm_message(links, response);
        true
    }

    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        self.requests.retain(|link| !is_gone(*link));
        self.replies.retain(|link| !is_gone(*link));
    }
}
