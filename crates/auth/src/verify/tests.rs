use proptest::prelude::*;

use super::*;
use crate::{Defect, sign};

const NOW: UnixMillis = UnixMillis(1_899_999_000_000);
const EXPIRY: u64 = 1_900_000_000;

fn key() -> Key {
    Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()
}

fn keys() -> KeyPair {
    KeyPair {
        primary: key(),
        secondary: Key::from_bytes(vec![7; 32]).unwrap(),
    }
}

fn names() -> HubNames {
    HubNames::new(["hub1.example.com"])
}

fn device<'a>(id: &'a str) -> ResourcePath<'a> {
    ResourcePath::HUB.then("devices").then(id)
}

fn check(token: &str, id: &str) -> Result<Grant, SasRefusal> {
    verify(&SasToken::parse(token)?, &device(id), &keys(), &names(), NOW)
}

#[test]
fn the_vectors_of_the_specification_are_accepted() {
    for token in [
        "SharedAccessSignature sr=hub1.example.com%2Fdevices%2Fdev-1&sig=rjpFnOHAmNX1p%2FKKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3D&se=1900000000",
        "SharedAccessSignature sr=hub1.example.com%2fdevices%2fdev-1&sig=cSMt65FRcenrudqfRDa5i9QQ5eCIR9prlZ%2f92vtSnlM%3d&se=1900000000",
        "SharedAccessSignature sr=hub1.example.com/devices/dev-1&sig=hzaKybdQNO0eIRIFN5FUZJhg56rGhwMokB0%2bJBfgDLY%3d&se=1900000000&skn=",
    ] {
        assert_eq!(
            check(token, "dev-1").map(|grant| grant.slot),
            Ok(KeySlot::Primary),
            "{token}"
        );
    }
    let token = "SharedAccessSignature sr=hub1.example.com&sig=9OcOBjASNcgRvBFEbcd4kwzxifKmmhaKjaos6bPG1xs%3D&se=1900000000&skn=service";
    let token = SasToken::parse(token).unwrap();
    let policy = Policy {
        name: "service".into(),
        keys: keys(),
        rights: Rights::SERVICE_CONNECT,
    };
    assert!(
        verify_policy(
            &token,
            &ResourcePath::HUB,
            Some(&policy),
            Rights::SERVICE_CONNECT,
            &names(),
            NOW
        )
        .is_ok()
    );
}

#[test]
fn both_keys_sign_and_the_grant_says_which() {
    let token = sign("hub1.example.com/devices/d", &[7; 32], None, EXPIRY);
    let grant = check(&token, "d").unwrap();
    assert_eq!(
        (grant.slot, grant.fingerprint),
        (KeySlot::Secondary, keys().secondary.fingerprint())
    );
    assert_eq!(
        (grant.expires.seconds(), grant.ends().seconds()),
        (EXPIRY, EXPIRY + 300)
    );
    let other = sign("hub1.example.com/devices/d", &[8; 32], None, EXPIRY);
    assert_eq!(check(&other, "d"), Err(SasRefusal::Signature));
}

#[test]
fn a_token_counts_until_300_seconds_after_its_expiry() {
    let text = sign("hub1.example.com/devices/d", key().as_bytes(), None, EXPIRY);
    let token = SasToken::parse(&text).unwrap();
    let at = |ms| check_claims(&token, &device("d"), &names(), UnixMillis(ms));
    let end = (EXPIRY + 300) * 1000;
    assert!(at(end).is_ok());
    assert_eq!(
        at(end + 1),
        Err(SasRefusal::Expired {
            at: UnixMillis(EXPIRY * 1000),
            now: UnixMillis(end + 1)
        })
    );
    let never = sign("hub1.example.com/devices/d", key().as_bytes(), None, u64::MAX);
    assert_eq!(check(&never, "d").map(|grant| grant.ends()), Ok(UnixMillis(u64::MAX)));
}

#[test]
fn of_several_faults_the_first_in_the_order_of_precedence_is_named() {
    let signed = |resource: &str, expiry| sign(resource, b"wrong key", None, expiry);
    assert_eq!(check("", "d"), Err(SasRefusal::Missing));
    assert!(matches!(
        check(&signed("elsewhere/devices/e", 1).replace("sr", "rs"), "d"),
        Err(SasRefusal::Malformed(Defect::Resource))
    ));
    assert!(matches!(
        check(&signed("elsewhere/devices/e", 1), "d"),
        Err(SasRefusal::Expired { .. })
    ));
    assert_eq!(
        check(&signed("elsewhere/devices/e", EXPIRY), "d"),
        Err(SasRefusal::Host)
    );
    assert_eq!(
        check(&signed("hub1.example.com/devices/e", EXPIRY), "d"),
        Err(SasRefusal::Scope)
    );
    assert_eq!(
        check(&signed("hub1.example.com/devices/d", EXPIRY), "d"),
        Err(SasRefusal::Signature)
    );
}

#[test]
fn a_policy_token_is_none_of_the_identity_and_the_reverse() {
    let policy = Policy {
        name: "device".into(),
        keys: keys(),
        rights: Rights::DEVICE_CONNECT,
    };
    let by_policy = sign("hub1.example.com/devices", key().as_bytes(), Some("Device"), EXPIRY);
    let token = SasToken::parse(&by_policy).unwrap();
    let check_policy = |token: &SasToken<'_>, policy: Option<&Policy>, needed| {
        verify_policy(token, &device("d"), policy, needed, &names(), NOW).map(|grant| grant.slot)
    };
    assert_eq!(check(&by_policy, "d"), Err(SasRefusal::UnknownPolicy));
    assert_eq!(
        check_policy(&token, Some(&policy), Rights::DEVICE_CONNECT),
        Ok(KeySlot::Primary)
    );
    assert_eq!(
        check_policy(&token, None, Rights::DEVICE_CONNECT),
        Err(SasRefusal::UnknownPolicy)
    );
    let other = Policy {
        name: "service".into(),
        ..policy.clone()
    };
    assert_eq!(
        check_policy(&token, Some(&other), Rights::DEVICE_CONNECT),
        Err(SasRefusal::UnknownPolicy)
    );
    assert_eq!(
        check_policy(&token, Some(&policy), Rights::REGISTRY_READ),
        Err(SasRefusal::Right(Rights::REGISTRY_READ))
    );
    let own = sign("hub1.example.com/devices/d", key().as_bytes(), None, EXPIRY);
    assert_eq!(
        check_policy(&SasToken::parse(&own).unwrap(), Some(&policy), Rights::NONE),
        Err(SasRefusal::UnknownPolicy)
    );
}

#[test]
fn without_the_key_the_rights_of_a_policy_stay_unknown() {
    let policy = Policy {
        name: "p".into(),
        keys: keys(),
        rights: Rights::NONE,
    };
    let text = sign("hub1.example.com", b"wrong key", Some("p"), EXPIRY);
    let token = SasToken::parse(&text).unwrap();
    let result = verify_policy(&token, &ResourcePath::HUB, Some(&policy), Rights::ALL, &names(), NOW);
    assert_eq!(result, Err(SasRefusal::Signature));
}

#[test]
fn the_text_of_a_key_signs_only_for_policies() {
    let text = key().to_base64();
    let by_policy = sign("sb://hub1.example.com/hub1", text.as_bytes(), Some("p"), EXPIRY);
    let token = SasToken::parse(&by_policy).unwrap();
    let policy = Policy {
        name: "p".into(),
        keys: keys(),
        rights: Rights::SERVICE_CONNECT,
    };
    let path = ResourcePath::events("hub1", &["ConsumerGroups", "$Default", "Partitions", "3"]);
    assert!(verify_policy(&token, &path, Some(&policy), Rights::SERVICE_CONNECT, &names(), NOW).is_ok());
    let own = sign("hub1.example.com/devices/d", text.as_bytes(), None, EXPIRY);
    assert_eq!(check(&own, "d"), Err(SasRefusal::Signature));
}

proptest! {
    #[test]
    fn a_signed_token_verifies_and_one_flipped_bit_refuses(
        id in "[A-Za-z0-9:.+%_#*?!(),=@;$'-]{1,40}",
        expiry in 1_900_000_000u64..5_000_000_000,
        at in any::<prop::sample::Index>(),
        bit in 0..7u8,
    ) {
        prop_assume!(!id.starts_with("api-version="));
        let text = sign(&format!("hub1.example.com/devices/{id}"), key().as_bytes(), None, expiry);
        prop_assert!(check(&text, &id).is_ok(), "{}", text);

        // A bit of the signature itself.
        let mut token = SasToken::parse(&text).unwrap();
        token.flip_signature_bit(at.index(SIGNATURE_BYTES), bit);
        prop_assert_eq!(verify(&token, &device(&id), &keys(), &names(), NOW), Err(SasRefusal::Signature));

        // A flipped bit of sr or se, as written in the token, must lead to a refusal.
        let token = SasToken::parse(&text).unwrap();
        for part in [token.resource(), token.expiry()] {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            let mut bytes = text.clone().into_bytes();
            bytes[start + at.index(part.len())] ^= 1 << bit;
            if let Ok(flipped) = String::from_utf8(bytes) {
                prop_assert!(check(&flipped, &id).is_err(), "{}", flipped);
            }
        }
    }

    #[test]
    fn no_pair_of_texts_panics(text in any::<String>(), id in any::<String>()) {
        let _ = check(&format!("SharedAccessSignature {text}"), &id);
        let _ = check(&text, &id);
    }
}
