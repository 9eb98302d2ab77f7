//! Join tokens: created, revoked, deleted. Their use is in the module above, with the members.
//!
//! Invariants: only the hash of a secret is kept; a used or revoked token never becomes valid again, even if the same
//! secret is added again.

use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::{CreateJoinToken, JoinTokenRecord, NodeRole, RevokeJoinToken};

use super::super::rejection::Rejection;
use super::super::{Stop, Work, layout};
use super::{RECORD_VERSION, existing, invalid, records};
use crate::cluster::MAX_JOIN_TOKENS;

/// How long an expired token is kept, so that a late node learns that it has expired.
const EXPIRED_KEPT_MS: u64 = 24 * 3600 * 1000;

/// Length of a SHA-256.
const HASH_BYTES: usize = 32;

pub(super) fn create(work: &mut Work<'_>, command: &CreateJoinToken) -> Result<(), Stop> {
    existing(work)?;
    let role = command.role();
    if command.secret_hash.len() != HASH_BYTES || role == NodeRole::Unspecified {
        return Err(invalid("a join token needs the SHA-256 of its secret and a role").into());
    }
    if command.expires_ms <= work.time_ms {
        return Err(invalid("a join token that has expired already is of no use").into());
    }
    if work.view.contains(&layout::join_token(&command.secret_hash))? {
        // Not created again: it may have been used.
        return Err(Rejection::new(ErrorCode::GenericConflict, "there is a join token of this secret").into());
    }
    let now = work.time_ms;
    let (tokens, mut forgotten): (Vec<_>, Vec<_>) = records::<JoinTokenRecord>(work, &layout::join_tokens())?
        .into_iter()
        .partition(|(_, token)| now < token.expires_ms.saturating_add(EXPIRED_KEPT_MS));
    if tokens.len() >= MAX_JOIN_TOKENS {
        // Nodes that used one or came too late have got their answer by now; usable tokens stay.
        let spent = tokens
            .iter()
            .filter(|(_, token)| token.used_by != 0 || token.revoked_ms != 0 || token.expires_ms <= now)
            .min_by_key(|(_, token)| token.created_ms);
        match spent {
            Some(spent) => forgotten.push(spent.clone()),
            None => {
                let text = format!(
                    "{MAX_JOIN_TOKENS} join tokens wait to be used: use one of them, or revoke some (`holdfast node token \
                     list`)"
                );
                return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
            }
        }
    }
    for (key, _) in forgotten {
        work.view.delete(key);
    }
    let token = JoinTokenRecord {
        record_version: RECORD_VERSION,
        role: role.into(),
        created_ms: work.time_ms,
        expires_ms: command.expires_ms,
        used_by: 0,
        used_ms: 0,
        revoked_ms: 0,
    };
    work.view.put_message(layout::join_token(&command.secret_hash), &token);
    Ok(())
}

pub(super) fn revoke(work: &mut Work<'_>, command: &RevokeJoinToken) -> Result<(), Stop> {
    existing(work)?;
    let key = layout::join_token(&command.secret_hash);
    let Some(mut token) = work.view.message::<JoinTokenRecord>(&key)? else {
        let text = "there is no such join token: see `holdfast node token list`";
        return Err(Rejection::new(ErrorCode::GenericNotFound, text).into());
    };
    if token.used_by != 0 {
        let text = format!(
            "the join token has been used by node {}: to take the permission back, drain and remove that node",
            token.used_by
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    if token.revoked_ms == 0 {
        token.revoked_ms = work.time_ms;
        work.view.put_message(key, &token);
    }
    Ok(())
}

pub(super) fn not_admitted(reason: &str) -> Rejection {
    let text = format!("{reason}. Make a new one with `holdfast node token` on a member");
    Rejection::new(ErrorCode::IotHubUnauthorizedAccess, text)
}
