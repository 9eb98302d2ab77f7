//! Raft state machine of identities and hub settings.
