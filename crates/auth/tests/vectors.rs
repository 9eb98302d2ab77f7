//! Tokens that the released SDKs made are accepted, for what they were made for and for nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use holdfast_auth::{
    HubNames, Key, KeyForm, KeyPair, KeySlot, Policy, ResourcePath, Rights, SasRefusal, SasToken, check_claims, verify,
    verify_policy, verify_signature,
};
use holdfast_model::UnixMillis;
use serde_json::Value;

struct Vector {
    name: String,
    token: String,
    path: Vec<String>,
    form: KeyForm,
}

struct Vectors {
    keys: KeyPair,
    names: HubNames,
    expiry: u64,
    all: Vec<Vector>,
}

fn load() -> Vec<Vectors> {
    [include_str!("vectors/python.json"), include_str!("vectors/node.json")]
        .map(read)
        .into()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn read(json: &str) -> Vectors {
    let file: Value = serde_json::from_str(json).unwrap();
    let key = Key::from_base64(file["key"].as_str().unwrap()).unwrap();
    Vectors {
        keys: KeyPair {
            primary: Key::from_bytes(vec![9; 32]).unwrap(),
            secondary: key,
        },
        names: HubNames::new([file["host"].as_str().unwrap()]),
        expiry: file["expiry"].as_u64().unwrap(),
        all: file["vectors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|vector| Vector {
                name: format!("{} {}: {}", vector["sdk"], vector["version"], vector["path"]),
                token: text(&vector["token"]),
                path: vector["path"].as_array().unwrap().iter().map(text).collect(),
                form: if vector["form"] == "text" {
                    KeyForm::Text
                } else {
                    KeyForm::Decoded
                },
            })
            .collect(),
    }
}

#[test]
fn every_sdk_token_is_accepted_until_five_minutes_after_its_expiry() {
    let mut count = 0;
    for file in load() {
        for vector in &file.all {
            let token = SasToken::parse(&vector.token).unwrap();
            let path: ResourcePath<'_> = vector.path.iter().map(String::as_str).collect();
            let check = |seconds: u64| {
                let now = UnixMillis(seconds * 1000);
                match token.policy() {
                    None => verify(&token, &path, &file.keys, &file.names, now),
                    Some(name) => {
                        let policy = Policy {
                            name: name.to_owned(),
                            keys: file.keys.clone(),
                            rights: Rights::SERVICE_CONNECT,
                        };
                        verify_policy(&token, &path, Some(&policy), Rights::SERVICE_CONNECT, &file.names, now)
                    }
                }
            };
            let grant = check(file.expiry - 60).unwrap_or_else(|refusal| panic!("{}: {refusal}", vector.name));
            assert_eq!(
                (grant.slot, grant.expires.seconds()),
                (KeySlot::Secondary, file.expiry),
                "{}",
                vector.name
            );
            assert!(check(file.expiry + 300).is_ok(), "{}", vector.name);
            assert!(
                matches!(check(file.expiry + 301), Err(SasRefusal::Expired { .. })),
                "{}",
                vector.name
            );
            count += 1;
        }
    }
    assert_eq!(count, 19);
}

#[test]
fn each_sdk_signs_with_one_form_of_the_key() {
    for file in load() {
        for vector in &file.all {
            let token = SasToken::parse(&vector.token).unwrap();
            let other = if vector.form == KeyForm::Text {
                KeyForm::Decoded
            } else {
                KeyForm::Text
            };
            assert_eq!(
                verify_signature(&token, &file.keys, vector.form),
                Some(KeySlot::Secondary),
                "{}",
                vector.name
            );
            assert_eq!(verify_signature(&token, &file.keys, other), None, "{}", vector.name);
        }
    }
}

#[test]
fn no_sdk_token_covers_a_neighbour_or_another_hub() {
    for file in load() {
        let now = UnixMillis(file.expiry * 1000);
        for vector in file.all.iter().filter(|vector| !vector.path.is_empty()) {
            let token = SasToken::parse(&vector.token).unwrap();
            let mut neighbour = vector.path.clone();
            for depth in 1..=2.min(neighbour.len()) {
                neighbour[depth - 1].push('x');
                let path: ResourcePath<'_> = neighbour.iter().map(String::as_str).collect();
                assert_eq!(
                    check_claims(&token, &path, &file.names, now),
                    Err(SasRefusal::Scope),
                    "{}",
                    vector.name
                );
            }
            let path: ResourcePath<'_> = vector.path.iter().map(String::as_str).collect();
            let elsewhere = HubNames::new(["hub2.example.com"]);
            assert_eq!(
                check_claims(&token, &path, &elsewhere, now),
                Err(SasRefusal::Host),
                "{}",
                vector.name
            );
        }
    }
}
