//! Requests about twins from any node of the hub: asks the owner of the identity's partition.
//!
//! Invariants: a write that is answered is stored; an error says whether the write may have taken effect.
//! Not here: topics and HTTP (`gateway`, `service-api`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{ErrorCode, GenerationId, IdentityId, ModuleId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::twin_answer::Outcome;
use holdfast_proto::cluster::v1::twin_request::Action;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_registry::{RegistryError, TwinSeed};
use thiserror::Error;

use super::decide;
use super::document::Twin;
use super::history::TwinVersion;
use super::limits::{self, SectionName};
use super::patch::{SectionWrite, WriteMode};
use super::stored::UnreadableTwin;
use crate::api::diagnose;
use crate::api::session::Session;
use crate::owner::state_writer::ChangeError;
use crate::rpc::owner_call::Repeat;
use crate::{ConnectionState, DeviceHub};

/// How long a device's request may wait for an owner: clients wait 60 s and longer (Spec device-mqtt §7.1).
const DEVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// A write of a back end to tags and desired properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinWrite {
    /// How the sections are written.
    pub mode: WriteMode,
    /// JSON text of an object or `null`; `None`: they stay.
    pub tags: Option<String>,
    /// The desired properties, likewise.
    pub desired: Option<String>,
    /// Only if the twin has this tag.
    pub if_etag: Option<String>,
}

/// A twin as back ends see it.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinView {
    /// The twin.
    pub twin: Twin,
    /// The connection of its identity.
    pub connection: ConnectionState,
}

/// Why a request about a twin was not carried out. Each variant says whether it may have changed the twin.
#[derive(Debug, Error)]
pub enum TwinError {
    /// It breaks a rule or its condition does not hold. Nothing has changed.
    #[error("{text}")]
    Refused {
        /// The number for the client.
        code: ErrorCode,
        /// Names the place, the size and the limit.
        text: String,
    },
    /// No owner of the partition was reached in time. Nothing has changed.
    #[error("no owner of the device's partition was reached; nothing has changed")]
    NoOwner,
    /// Too many requests wait, or the disk is nearly full. Nothing has changed.
    #[error("the owner of the device's partition takes no more requests for now; nothing has changed")]
    Busy,
    /// The owner did not answer. A write may have taken effect.
    #[error("the owner of the device's partition did not answer; whether a write took effect is not known")]
    Unknown,
    /// What the owner has stored or answered cannot be read here.
    #[error("the twin cannot be read")]
    Unreadable(#[from] UnreadableTwin),
    /// The local registry cannot be read.
    #[error("the registry cannot be read")]
    Registry(#[from] RegistryError),
}

impl TwinError {
    /// Its number for clients.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::NoOwner => ErrorCode::PartitionNotFound,
            Self::Busy => ErrorCode::ServerBusy,
            Self::Unknown => ErrorCode::ServiceUnavailable,
            Self::Unreadable(_) => ErrorCode::ServerError,
            Self::Registry(error) => error.code(),
        }
    }
}

/// Checks content for a section that is to be written later: a JSON text of an object or `null`.
///
/// # Errors
/// [`TwinError::Refused`], as the write would be.
pub fn check_section(section: SectionName, text: &str) -> Result<(), TwinError> {
    let checked = SectionWrite::parse(section, WriteMode::Replace, text);
    let checked = checked.and_then(|write| match write {
        SectionWrite::Merge(content) | SectionWrite::Replace(content) => {
            limits::check_size(section, limits::size(&serde_json::Value::Object(content)))
        }
    });
    checked.map_err(|refusal| TwinError::Refused {
        code: refusal.code(),
        text: refusal.to_string(),
    })
}

impl From<ChangeError> for TwinError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotOwner => Self::NoOwner,
            ChangeError::Busy | ChangeError::DiskFull => Self::Busy,
            ChangeError::TooLarge => Self::Refused {
                code: ErrorCode::MessageTooLarge,
                text: error.to_string(),
            },
            ChangeError::Unknown => Self::Unknown,
        }
    }
}

/// The owner's answer, when it is no refusal.
struct TwinReply {
    outcome: Outcome,
    connection: Option<proto::SessionFound>,
}

impl DeviceHub {
    /// The twin of an identity, as of the last write that was answered. Every identity has one.
    ///
    /// # Errors
    /// [`TwinError`].
    pub async fn twin(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        timeout: Duration,
    ) -> Result<TwinView, TwinError> {
        let read = Action::Read(proto::TwinRead {});
        let request = self.twin_request(identity, generation, read, true)?;
        let answer = self.ask_twin(identity, request, Repeat::Always, timeout).await?;
        let view = self.twin_view(identity, answer).await?;
        self.charge(|| view.twin.properties().to_string().len());
        Ok(view)
    }

    /// Writes tags and desired properties; answered with the whole twin once that is committed. The device gets the change
    /// of its desired properties if it is connected and has subscribed.
    ///
    /// # Errors
    /// [`TwinError`].
    pub async fn write_twin(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        write: TwinWrite,
        timeout: Duration,
    ) -> Result<TwinView, TwinError> {
        let section = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = section(&write.tags) + section(&write.desired);
        let write = Action::Write(proto::TwinWrite {
            replaces: write.mode == WriteMode::Replace,
            tags: write.tags,
            desired: write.desired,
            if_etag: write.if_etag,
        });
        let request = self.twin_request(identity, generation, write, true)?;
        let answer = self.ask_twin(identity, request, Repeat::WhileCertain, timeout).await?;
        self.charge(|| bytes);
        self.twin_view(identity, answer).await
    }

    async fn twin_view(&self, identity: &IdentityId, answer: TwinReply) -> Result<TwinView, TwinError> {
        let Outcome::Twin(value) = answer.outcome else {
            return Err(TwinError::Unknown);
        };
        Ok(TwinView {
            twin: Twin::decode(&value)?,
            connection: match &answer.connection {
                Some(found) => diagnose::state_of(found),
                // An owner of an earlier version.
                None => self.connection_state(identity).await,
            },
        })
    }

    /// The current version of tags and desired properties and the kept ones before it, newest first.
    ///
    /// # Errors
    /// [`TwinError`].
    pub async fn twin_history(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        timeout: Duration,
    ) -> Result<Vec<TwinVersion>, TwinError> {
        let history = Action::History(proto::TwinHistory {});
        let request = self.twin_request(identity, generation, history, false)?;
        let answer = self.ask_twin(identity, request, Repeat::Always, timeout).await?;
        match answer.outcome {
            Outcome::Versions(found) => {
                let versions = found.versions.iter().map(|value| TwinVersion::decode(value));
                Ok(versions.collect::<Result<_, _>>()?)
            }
            _ => Err(TwinError::Unknown),
        }
    }

    /// The twin of a session's identity.
    ///
    /// # Errors
    /// [`TwinError`].
    pub fn session_twin(self: &Arc<Self>, session: &Session) -> impl Future<Output = Result<Twin, TwinError>> + use<> {
        let (hub, info) = (Arc::clone(self), Arc::clone(&session.info));
        async move {
            let read = Action::Read(proto::TwinRead {});
            let request = hub.twin_request(&info.identity, &info.generation, read, false)?;
            let asked = hub.ask_twin(&info.identity, request, Repeat::Always, DEVICE_TIMEOUT);
            match asked.await?.outcome {
                Outcome::Twin(value) => {
                    hub.charge(|| value.len());
                    Ok(Twin::decode(&value)?)
                }
                _ => Err(TwinError::Unknown),
            }
        }
    }

    /// Merges a patch of a session's device into its reported properties; their version once that is committed.
    ///
    /// # Errors
    /// [`TwinError`].
    pub fn report_twin(
        self: &Arc<Self>,
        session: &Session,
        patch: Bytes,
        if_version: Option<u64>,
    ) -> impl Future<Output = Result<u64, TwinError>> + use<> {
        let (hub, info) = (Arc::clone(self), Arc::clone(&session.info));
        async move {
            let bytes = patch.len();
            let report = Action::Report(proto::TwinReport { patch, if_version });
            let request = hub.twin_request(&info.identity, &info.generation, report, false)?;
            let asked = hub.ask_twin(&info.identity, request, Repeat::WhileCertain, DEVICE_TIMEOUT);
            match asked.await?.outcome {
                Outcome::ReportedVersion(version) => {
                    hub.charge(|| bytes);
                    Ok(version)
                }
                _ => Err(TwinError::Unknown),
            }
        }
    }

    /// The twin of an identity whose partition has stored none: empty, or as it was given with the creation.
    ///
    /// # Errors
    /// [`TwinError::Registry`].
    pub(crate) fn unwritten_twin(&self, identity: &IdentityId, generation: &GenerationId) -> Result<Twin, TwinError> {
        let seed = self.twin_seed(identity, generation)?;
        Ok(decide::current(None, identity, generation, seed.as_ref())?)
    }

    /// Content that was given with the creation of this generation.
    pub(super) fn twin_seed(
        &self,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Result<Option<TwinSeed>, RegistryError> {
        let registry = &self.parts.registry;
        let Some(seed) = registry.twin_seed(identity)? else {
            return Ok(None);
        };
        let registered = registry.identity(identity)?;
        let is_of_this = registered.is_some_and(|registered| registered.generation == *generation);
        Ok(is_of_this.then_some(seed))
    }

    fn twin_request(
        &self,
        identity: &IdentityId,
        generation: &GenerationId,
        action: Action,
        with_connection: bool,
    ) -> Result<Request, TwinError> {
        let seed = self.twin_seed(identity, generation)?.unwrap_or_default();
        Ok(Request::Twin(proto::TwinRequest {
            device: identity.device.as_str().to_owned(),
            module: identity.module.as_ref().map_or("", ModuleId::as_str).to_owned(),
            generation: generation.0.to_string(),
            seed_tags: seed.tags,
            seed_desired: seed.desired,
            seed_reported: seed.reported,
            action: Some(action),
            with_connection,
        }))
    }

    async fn ask_twin(
        self: &Arc<Self>,
        identity: &IdentityId,
        request: Request,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<TwinReply, TwinError> {
        let answer = match self.ask_owner(identity, request, repeat, timeout).await? {
            Answer::Twin(answer) => answer,
            _ => return Err(TwinError::Unknown),
        };
        match answer.outcome {
            Some(Outcome::Refused(refused)) => Err(TwinError::Refused {
                code: ErrorCode::from_number(refused.code).unwrap_or(ErrorCode::ServerError),
                text: refused.text,
            }),
            Some(outcome) => Ok(TwinReply {
                outcome,
                connection: answer.connection,
            }),
            None => Err(TwinError::Unknown),
        }
    }
}
