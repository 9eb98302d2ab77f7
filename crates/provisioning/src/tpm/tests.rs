use holdfast_auth::sign;
use holdfast_registry::{RegistrationOutcome, TpmEnrollmentKeys};

use super::*;

const DAY: u64 = NONCE_MS;

/// A public key of the clients' templates, with this odd last byte of its number.
fn public_key(last: u8) -> Vec<u8> {
    let mut area = vec![
        0, 1, 0, 0x0b, 0, 3, 0, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0,
    ];
    let mut number = vec![0x5a; 256];
    number[0] = 0xc3;
    number[255] = last;
    area.extend(number);
    let size = u16::try_from(area.len()).unwrap();
    [&size.to_be_bytes()[..], &area].concat()
}

fn keys(last: u8) -> TpmKeys {
    TpmKeys::parse(&public_key(last), &public_key(0x0f)).unwrap()
}

fn attestation() -> TpmAttestation {
    let key = |byte| Key::from_bytes(vec![byte; 64]).unwrap();
    TpmAttestation {
        keys: TpmEnrollmentKeys {
            endorsement_key: public_key(1).into(),
            storage_root_key: None,
        },
        secrets: KeyPair {
            primary: key(1),
            secondary: key(2),
        },
    }
}

fn registration(operation_id: &str, tpm: Option<RegistrationTpm>) -> Registration {
    Registration {
        id: "dev-1".to_owned(),
        etag: "e".to_owned(),
        created: UnixMillis(0),
        updated: UnixMillis(0),
        outcome: RegistrationOutcome::Failed {
            code: ErrorCode::NoHubToAssign,
            text: String::new(),
        },
        attestation: "tpm",
        group: None,
        operation_id: operation_id.to_owned(),
        tpm,
        place: None,
        left: Vec::new(),
        payload: None,
        webhook: None,
        history: Vec::new(),
        issued_chain: None,
    }
}

fn enrolled<'a>(attestation: &'a TpmAttestation, registration: Option<&'a Registration>, now: u64) -> EnrolledTpm<'a> {
    EnrolledTpm {
        attestation,
        id_scope: "0NE1",
        registration_id: "Dev-1",
        registration,
        now: UnixMillis(now),
    }
}

/// A token that the TPM signs after it has opened the challenge of `enrolled`.
fn token(enrolled: &EnrolledTpm<'_>) -> String {
    let nonce = enrolled.nonce(&keys(1), enrolled.last_operation(), enrolled.now.0 / DAY);
    sign(
        "0ne1/registrations/dev-1",
        nonce.as_bytes(),
        Some("registration"),
        2_000_000_000,
    )
}

fn verify(enrolled: &EnrolledTpm<'_>, token: &str, usage: TpmUse<'_>) -> Result<ProvenTpm, RefusalReason> {
    let token = SasToken::parse(token).unwrap();
    enrolled.verify(&token, usage).map_err(|(reason, _)| reason)
}

#[test]
fn a_nonce_opens_one_registration_and_then_its_state_alone() {
    let attestation = attestation();
    let keys = keys(1);
    let first = enrolled(&attestation, None, 5 * DAY);
    let token = token(&first);
    let proven = verify(&first, &token, TpmUse::Register(Some(&keys))).unwrap();
    assert_eq!(
        verify(&first, &token, TpmUse::Read).unwrap_err(),
        RefusalReason::Missing
    );
    // The registration is stored under a new operation.
    let stored = registration("4.1.x", Some(proven.stored()));
    let after = enrolled(&attestation, Some(&stored), 5 * DAY);
    assert_eq!(
        verify(&after, &token, TpmUse::Register(Some(&keys))).unwrap_err(),
        RefusalReason::Signature,
        "a replay"
    );
    let read = verify(&after, &token, TpmUse::Read).unwrap();
    assert_eq!(read.hub_keys, proven.hub_keys, "the hub's keys stay");
    let second = self::token(&after);
    let again = verify(&after, &second, TpmUse::Register(Some(&keys))).unwrap();
    assert_eq!(again.hub_keys, proven.hub_keys);
    assert_ne!(again.stored().nonce_salt, proven.stored().nonce_salt);
}

#[test]
fn a_nonce_ends_with_the_day_after_it_was_made() {
    let attestation = attestation();
    let keys = keys(1);
    let token = token(&enrolled(&attestation, None, 5 * DAY));
    for (now, fits) in [(5 * DAY, true), (7 * DAY - 1, true), (7 * DAY, false), (4 * DAY, false)] {
        let verified = verify(
            &enrolled(&attestation, None, now),
            &token,
            TpmUse::Register(Some(&keys)),
        );
        assert_eq!(verified.is_ok(), fits, "{now}");
    }
}

#[test]
fn another_tpm_another_enrollment_and_missing_keys_are_refused() {
    let attestation = attestation();
    let (own, other_tpm) = (keys(1), keys(3));
    let enrolled = enrolled(&attestation, None, DAY);
    let token = token(&enrolled);
    assert!(enrolled.is_of(&own));
    assert!(!enrolled.is_of(&other_tpm));
    let refused = |usage| verify(&enrolled, &token, usage).unwrap_err();
    assert_eq!(refused(TpmUse::Register(Some(&other_tpm))), RefusalReason::Thumbprint);
    assert_eq!(refused(TpmUse::Register(None)), RefusalReason::Missing);
    let mut other = self::attestation();
    other.secrets.secondary = Key::from_bytes(vec![9; 64]).unwrap();
    let renewed = self::enrolled(&other, None, DAY);
    let verified = verify(&renewed, &token, TpmUse::Register(Some(&own)));
    assert_eq!(
        verified.unwrap_err(),
        RefusalReason::Signature,
        "an enrollment that was made anew"
    );
}

#[test]
fn keys_that_are_none_are_refused_by_name_and_blobs_fit_into_two_frames() {
    for bytes in [&b""[..], b"x", &[0; 2000], &public_key(2)] {
        let error = TpmKeys::parse(bytes, &public_key(1)).unwrap_err();
        assert_eq!(error.code, ErrorCode::ArgumentInvalid);
        assert!(error.text.starts_with("endorsementKey"), "{error:?}");
    }
    let long = "é".repeat(200);
    let blob = keys(1)
        .activate(&attestation().secrets.primary.derive("x"), &long)
        .unwrap();
    assert_eq!(blob.len(), 766 + MAX_TEXT_BYTES);
}
