//! Tokens of real keys, and tokens of attackers.

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_model::UnixMillis;
use holdfast_testkit::issuer::{SigningKey, encode, key_set};
use serde_json::{Value, json};

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const ISSUER: &str = "https://issuer.example/tenant/";

struct Keys {
    rsa: SigningKey,
    p256: SigningKey,
    p384: SigningKey,
    ed25519: SigningKey,
    /// Another issuer's, with the name of the first.
    foreign: SigningKey,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: SigningKey::rsa("rsa"),
    p256: SigningKey::p256("p256"),
    p384: SigningKey::p384("p384"),
    ed25519: SigningKey::ed25519("ed"),
    foreign: SigningKey::rsa("rsa"),
});

fn issuer_keys() -> IssuerKeys {
    let keys = &*KEYS;
    IssuerKeys::parse(&key_set(&[&keys.rsa, &keys.p256, &keys.p384, &keys.ed25519])).unwrap()
}

fn rules() -> IssuerRules {
    IssuerRules {
        issuer: ISSUER.to_owned(),
        audiences: vec!["https://iothubs.azure.net".to_owned(), "hub".to_owned()],
        algorithms: Algorithm::ALL.map(|(algorithm, _)| algorithm).to_vec(),
        clock_skew: Duration::from_secs(300),
        role_claim: "roles".to_owned(),
        roles: Role::ALL.map(|(role, name)| (name.to_owned(), role)).to_vec(),
        subjects: vec![("robot".to_owned(), Role::TwinContributor)],
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": "hub",
        "sub": "alice",
        "exp": 1_700_000_600,
        "nbf": 1_699_999_000,
        "roles": ["IoT Hub Data Reader", "something else"],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn check(text: &str) -> Result<Principal, BearerRefusal> {
    rules().check(&BearerToken::parse(text)?, Some(&issuer_keys()), NOW)
}

#[test]
fn a_token_of_every_algorithm_opens_with_its_roles() {
    let keys = &*KEYS;
    let signed = [
        (
            &keys.rsa,
            ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].as_slice(),
        ),
        (&keys.p256, &["ES256"]),
        (&keys.p384, &["ES384"]),
        (&keys.ed25519, &["EdDSA"]),
    ];
    for (key, algorithms) in signed {
        for algorithm in algorithms {
            let principal = check(&key.token_by(algorithm, &claims())).unwrap();
            assert_eq!(&*principal.name, "alice", "{algorithm}");
            assert_eq!(principal.roles, Roles::NONE.with(Role::DataReader));
            assert_eq!(
                principal.ends,
                UnixMillis(1_700_000_900_000),
                "five minutes of grace for clocks"
            );
        }
    }
}

#[test]
fn claims_may_be_written_in_any_form_that_issuers_use() {
    let key = &KEYS.p256;
    let accepted = [
        with("aud", json!(["other", "https://iothubs.azure.net"])),
        with("exp", json!(1_700_000_600.75)),
        with("exp", json!(1e30)),
        without("nbf"),
        without("sub"),
        without("roles"),
        with("nbf", json!(1_700_000_299)),
        with("exp", json!(1_699_999_701)),
        with("iat", json!("anything")),
        with("nonsense", json!({"deep": [{"er": []}]})),
    ];
    for claims in accepted {
        assert!(check(&key.token(&claims)).is_ok(), "{claims}");
    }
    for kind in ["jwt", "JWT", "at+jwt", "application/at+JWT"] {
        let header =
            json!({"alg": "ES256", "typ": kind, "kid": "p256", "x5t": "ignored", "jku": "https://evil.example"});
        assert!(check(&key.sign("ES256", &header.to_string(), &claims().to_string())).is_ok());
    }
    // Without a name the only key of its kind is meant.
    let header = json!({"alg": "ES256"}).to_string();
    assert!(check(&key.sign("ES256", &header, &claims().to_string())).is_ok());
}

#[test]
fn roles_come_from_a_claim_a_path_or_the_subject() {
    let roles = |claims: &Value, role_claim: &str| {
        let rules = IssuerRules {
            role_claim: role_claim.to_owned(),
            ..rules()
        };
        let text = KEYS.p256.token(claims);
        let token = BearerToken::parse(&text).unwrap();
        rules.check(&token, Some(&issuer_keys()), NOW).unwrap().roles
    };
    let reader = Roles::NONE.with(Role::DataReader);
    assert_eq!(roles(&with("roles", json!("IoT Hub Data Reader")), "roles"), reader);
    let nested = with("realm_access", json!({"roles": ["IoT Hub Data Reader"]}));
    assert_eq!(roles(&nested, "realm_access.roles"), reader);
    let dotted = with("https://example.com/roles", json!(["IoT Hub Data Reader"]));
    assert_eq!(roles(&dotted, "https://example.com/roles"), reader);
    for claims in [
        with("roles", json!(7)),
        with("roles", json!(["IoT Hub Data Reader", 7])),
        with("roles", json!(["iot hub data reader"])),
        with("roles", json!({"IoT Hub Data Reader": true})),
        without("roles"),
    ] {
        assert_eq!(roles(&claims, "roles"), Roles::NONE, "{claims}");
    }
    let both = roles(&with("sub", json!("robot")), "roles");
    assert_eq!(both, reader.with(Role::TwinContributor));
}

#[test]
fn roles_open_what_the_table_says() {
    let table = [
        (Action::DEVICES_READ, [true, true, true, false]),
        (Action::DEVICES_WRITE, [true, false, true, false]),
        (Action::DEVICES_DELETE, [true, false, true, false]),
        (Action::TWINS_READ, [true, true, false, true]),
        (Action::TWINS_WRITE, [true, false, false, true]),
        (Action::JOBS_READ, [true, true, false, false]),
        (Action::JOBS_WRITE, [true, false, false, false]),
        (Action::JOBS_DELETE, [true, false, false, false]),
        (Action::MESSAGES_SEND, [true, false, false, false]),
        (Action::MESSAGES_FEEDBACK, [true, false, false, false]),
        (Action::FILE_NOTIFICATIONS, [true, true, false, false]),
        (Action::MESSAGES_PURGE, [true, false, false, false]),
        (Action::MESSAGES_READ, [true, true, false, false]),
        (Action::MESSAGES_REQUEUE, [true, false, false, false]),
        (Action::METHODS_INVOKE, [true, false, false, false]),
        (Action::STATISTICS_READ, [true, true, false, false]),
        (Action::CONFIGURATIONS_READ, [true, true, false, false]),
        (Action::CONFIGURATIONS_WRITE, [true, false, false, false]),
        (Action::EVENTS_READ, [true, true, false, false]),
        (Action::ADMINISTRATION_READ, [true, true, false, false]),
        (Action::POLICIES_LIST_KEYS, [true, false, false, false]),
        (Action::ADMINISTRATION_WRITE, [true, false, false, false]),
    ];
    for (action, expected) in table {
        let opened = Role::ALL.map(|(role, _)| Roles::NONE.with(role).allow(action));
        assert_eq!(opened, expected, "{}", action.name());
        assert!(!Roles::NONE.allow(action));
    }
    let both: Roles = [Role::RegistryContributor, Role::TwinContributor].into_iter().collect();
    assert!(both.allow(Action::TWINS_WRITE) && both.allow(Action::DEVICES_WRITE) && !both.allow(Action::EVENTS_READ));
}

#[test]
fn what_is_no_token_of_the_issuer_is_refused_with_the_rule() {
    use BearerRefusal::{Algorithm as WrongAlgorithm, Audience, Issuer, Signature, UnknownKey};
    let keys = &*KEYS;
    let foreign_ec = SigningKey::p256("p256");
    let refused = [
        (keys.foreign.token(&claims()), Signature),
        (foreign_ec.token(&claims()), Signature),
        (SigningKey::p256("unknown").token(&claims()), UnknownKey),
        // The name of a key of another kind.
        (
            keys.p256
                .sign("ES256", r#"{"alg":"ES256","kid":"rsa"}"#, &claims().to_string()),
            UnknownKey,
        ),
        (
            keys.rsa
                .sign("RS256", r#"{"alg":"ES256","kid":"rsa"}"#, &claims().to_string()),
            UnknownKey,
        ),
        // A curve that does not belong to the algorithm.
        (
            keys.p384
                .sign("ES384", r#"{"alg":"ES256","kid":"p384"}"#, &claims().to_string()),
            UnknownKey,
        ),
        // Signed in another way than the header says.
        (
            keys.rsa
                .sign("RS256", r#"{"alg":"PS256","kid":"rsa"}"#, &claims().to_string()),
            Signature,
        ),
        (
            keys.rsa
                .sign("RS256", r#"{"alg":"RS512","kid":"rsa"}"#, &claims().to_string()),
            Signature,
        ),
        (
            keys.p256.token(&with("iss", json!("https://issuer.example/tenant"))),
            Issuer,
        ),
        (keys.p256.token(&with("iss", json!(""))), Issuer),
        (
            keys.p256.token(&with("iss", json!("https://issuer.example/tenant/\0"))),
            Issuer,
        ),
        (keys.p256.token(&with("aud", json!("HUB"))), Audience),
        (keys.p256.token(&with("aud", json!([]))), Audience),
        (keys.p256.token(&with("aud", json!(["hu", "b", "hub "]))), Audience),
        (
            keys.p256.token(&with("exp", json!(1_699_999_699))),
            BearerRefusal::Expired {
                at: UnixMillis(1_699_999_699_000),
                now: NOW,
            },
        ),
        (
            keys.p256.token(&with("exp", json!(0))),
            BearerRefusal::Expired {
                at: UnixMillis(0),
                now: NOW,
            },
        ),
        (
            keys.p256.token(&with("exp", json!(-5))),
            BearerRefusal::Expired {
                at: UnixMillis(0),
                now: NOW,
            },
        ),
        (
            keys.p256.token(&with("nbf", json!(1_700_000_301))),
            BearerRefusal::NotYet {
                at: UnixMillis(1_700_000_301_000),
                now: NOW,
            },
        ),
        (
            keys.p256.sign("ES256", r#"{"alg":"none"}"#, &claims().to_string()),
            WrongAlgorithm,
        ),
        (
            keys.p256
                .sign("ES256", r#"{"alg":"None","kid":"p256"}"#, &claims().to_string()),
            WrongAlgorithm,
        ),
        (
            keys.p256
                .sign("ES256", r#"{"alg":"es256","kid":"p256"}"#, &claims().to_string()),
            WrongAlgorithm,
        ),
        (
            keys.p256
                .sign("ES256", r#"{"alg":"ES512","kid":"p256"}"#, &claims().to_string()),
            WrongAlgorithm,
        ),
        (
            keys.p256
                .sign("ES256", r#"{"alg":"","kid":"p256"}"#, &claims().to_string()),
            WrongAlgorithm,
        ),
    ];
    for (at, (text, refusal)) in refused.iter().enumerate() {
        assert_eq!(check(text), Err(*refusal), "case {at}");
    }
    let token = keys.p256.token(&claims());
    let token = BearerToken::parse(&token).unwrap();
    assert_eq!(rules().check(&token, None, NOW), Err(BearerRefusal::NoKeys));
    let only_rsa = IssuerRules {
        algorithms: vec![Algorithm::Rs256],
        ..rules()
    };
    assert_eq!(only_rsa.check(&token, Some(&issuer_keys()), NOW), Err(WrongAlgorithm));
}

/// A token that is "signed" with HMAC, whose secret is what everybody can read.
fn hmac(algorithm: &str, secret: &[u8]) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let header = json!({"alg": algorithm, "typ": "JWT", "kid": "rsa"}).to_string();
    let message = format!("{}.{}", encode(header), encode(claims().to_string()));
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
    format!(
        "{message}.{}",
        encode(mac.chain_update(&message).finalize().into_bytes())
    )
}

#[test]
fn a_public_key_is_no_secret_and_no_signature_is_none() {
    let jwk = KEYS.rsa.jwk();
    let modulus = jwk["n"].as_str().unwrap();
    for secret in [modulus.as_bytes(), jwk.to_string().as_bytes(), b"", b"secret"] {
        for algorithm in ["HS256", "HS384", "HS512", "hs256"] {
            assert_eq!(check(&hmac(algorithm, secret)), Err(BearerRefusal::Algorithm));
        }
        for algorithm in ["RS256", "PS256"] {
            assert_eq!(check(&hmac(algorithm, secret)), Err(BearerRefusal::Signature));
        }
    }
    // A symmetric key in the key set is left out, so that it cannot be named either.
    let set = json!({"keys": [{"kty": "oct", "k": encode("secret"), "kid": "rsa", "alg": "HS256"}]});
    assert!(matches!(
        IssuerKeys::parse(set.to_string().as_bytes()),
        Err(KeySetError::Unusable(1))
    ));
    for algorithm in ["none", "NONE", "nOnE"] {
        let header = json!({"alg": algorithm}).to_string();
        for signature in ["", "AA", "none"] {
            let text = format!("{}.{}.{signature}", encode(&header), encode(claims().to_string()));
            assert!(check(&text).is_err(), "{algorithm} {signature}");
        }
    }
}

#[test]
fn every_other_bit_of_a_token_counts() {
    for key in [&KEYS.p256, &KEYS.ed25519, &KEYS.rsa] {
        let good = key.token(&claims());
        for at in 0..good.len() {
            for bit in 0..7 {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                // The last character of a part may hold bits of no byte, which are refused as well.
                if let Ok(text) = String::from_utf8(bytes)
                    && (at % 7 == 0 || at > good.len() - 4)
                {
                    assert!(check(&text).is_err(), "{at} {bit}: {text}");
                }
            }
        }
        for cut in 0..good.len() {
            assert!(
                BearerToken::parse(&good[..cut]).is_err() || check(&good[..cut]).is_err(),
                "{cut}"
            );
        }
    }
}

#[test]
fn unreadable_tokens_are_refused_by_their_defect() {
    use BearerDefect::{Base64, Claim, Header, Json, Parts, TooLong};
    let key = &KEYS.p256;
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let body = claims().to_string();
    let part = encode(&body);
    let signature = encode([0; 64]);
    let head = encode(header);
    let mut cases: Vec<(String, BearerDefect)> = vec![
        (String::new(), Parts),
        (".".to_owned(), Parts),
        ("..".to_owned(), Parts),
        ("...".to_owned(), Parts),
        (head.clone(), Parts),
        (format!("{head}.{part}"), Parts),
        (format!("{head}.{part}."), Parts),
        (format!(".{part}.{signature}"), Parts),
        (format!("{head}..{signature}"), Parts),
        (format!("{head}.{part}.{signature}.x"), Parts),
        // An encrypted token has five parts.
        (format!("{head}.x.{part}.x.{signature}"), Parts),
        (format!("{head}=.{part}.{signature}"), Base64),
        (format!("{head}.{part}==.{signature}"), Base64),
        (format!("{head}.{part}.{signature}="), Base64),
        (format!("{head}.{part}.a+b/"), Base64),
        (format!("{head}.{part}.é"), Base64),
        (format!("{head}.a.{signature}"), Base64),
        (format!("{head}.{}.{signature}", encode("nonsense")), Json),
        (format!("{head}.{}.{signature}", encode("[]")), Json),
        (format!("{head}.{}.{signature}", encode("null")), Json),
        (format!("{head}.{}.{signature}", encode("\"text\"")), Json),
        (format!("{head}.{}.{signature}", encode([0xff, 0xfe])), Json),
        (format!("{head}.{}.{signature}", encode(format!("{body} x"))), Json),
        (
            format!(
                "{head}.{}.{signature}",
                encode(format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200)))
            ),
            Json,
        ),
        (format!("{}.{part}.{signature}", encode("[]")), Json),
        (format!("{}.{part}.{signature}", encode("{}")), Header),
        ("A".repeat(1 << 20), TooLong),
        (format!("{head}.{}.{signature}", "A".repeat(1 << 20)), TooLong),
        (".".repeat(1 << 20), TooLong),
    ];
    // Whatever a reader may take the last, or the first, of.
    for (name, other) in [
        ("iss", "\"https://evil.example\""),
        ("aud", "\"other\""),
        ("sub", "\"admin\""),
        ("exp", "9999999999"),
        ("roles", "[\"IoT Hub Data Contributor\"]"),
    ] {
        let first = format!("{{\"{name}\":{other},{}", &body[1..]);
        let last = format!("{},\"{name}\":{other}}}", &body[..body.len() - 1]);
        let escaped = format!(
            "{{\"\\u{:04x}{}\":{other},{}",
            u32::from(name.as_bytes()[0]),
            &name[1..],
            &body[1..]
        );
        cases.extend([first, last, escaped].map(|body| (key.sign("ES256", header, &body), Json)));
    }
    for header in [
        r#"{"alg":"ES256","alg":"none","kid":"p256"}"#,
        r#"{"alg":"ES256","kid":"p256","kid":"rsa"}"#,
    ] {
        cases.push((key.sign("ES256", header, &body), Json));
    }
    for header in [
        r#"{"alg":null}"#,
        r#"{"alg":256}"#,
        r#"{"alg":["ES256"]}"#,
        r#"{"ALG":"ES256"}"#,
        r#"{"alg":"ES256","kid":7}"#,
        r#"{"alg":"ES256","kid":null}"#,
        r#"{"alg":"ES256","kid":"p256","crit":["exp"]}"#,
        r#"{"alg":"ES256","kid":"p256","crit":[]}"#,
        r#"{"alg":"ES256","kid":"p256","b64":false}"#,
        r#"{"alg":"ES256","kid":"p256","zip":"DEF"}"#,
        r#"{"alg":"ES256","kid":"p256","enc":"A128GCM"}"#,
        r#"{"alg":"ES256","kid":"p256","cty":"JWT"}"#,
        r#"{"alg":"ES256","kid":"p256","typ":"secevent+jwt"}"#,
        r#"{"alg":"ES256","kid":"p256","typ":"JWE"}"#,
        r#"{"alg":"ES256","kid":"p256","typ":7}"#,
    ] {
        cases.push((key.sign("ES256", header, &body), Header));
    }
    let long = json!({"alg": "ES256", "kid": "k".repeat(300)}).to_string();
    cases.push((key.sign("ES256", &long, &body), Header));
    for claims in [
        without("iss"),
        without("aud"),
        without("exp"),
        with("iss", json!(null)),
        with("iss", json!([ISSUER])),
        with("aud", json!(null)),
        with("aud", json!(7)),
        with("aud", json!(["hub", 7])),
        with("aud", json!({"hub": true})),
        with("exp", json!("1700000600")),
        with("exp", json!(null)),
        with("exp", json!([1_700_000_600])),
        with("exp", json!(true)),
        with("nbf", json!("0")),
        with("nbf", json!(null)),
        with("nbf", json!({})),
        with("sub", json!(7)),
        with("sub", json!(null)),
        with("sub", json!(["alice"])),
    ] {
        cases.push((key.token(&claims), Claim));
    }
    // Claims that are too many, and a token inside a token.
    let many = with("groups", json!(vec!["00000000-0000-0000-0000-000000000000"; 1000]));
    cases.push((key.token(&many), TooLong));
    cases.push((format!("{head}.{}.{signature}", encode(key.token(&claims()))), Json));
    for (at, (text, defect)) in cases.iter().enumerate() {
        let refusal = BearerToken::parse(text).unwrap_err();
        assert_eq!(refusal, BearerRefusal::Malformed(*defect), "case {at}: {:.60}", text);
    }
    assert!(cases.len() > 75, "{}", cases.len());
}

#[test]
fn keys_that_cannot_check_tokens_are_left_out() {
    let keys = &*KEYS;
    let change = |key: &SigningKey, changes: Value| {
        let mut jwk = key.jwk();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    for jwk in [
        json!({}),
        json!(7),
        json!({"kty": "RSA"}),
        json!({"kty": "oct", "k": "c2VjcmV0"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        change(&keys.rsa, json!({"use": "enc"})),
        change(&keys.rsa, json!({"key_ops": ["encrypt"]})),
        change(&keys.rsa, json!({"n": encode([0xc1; 128])})),
        change(&keys.rsa, json!({"n": encode([0xc1; 4096])})),
        change(&keys.rsa, json!({"n": "???"})),
        change(&keys.p256, json!({"crv": "P-521"})),
        change(&keys.p256, json!({"x": "???"})),
    ] {
        let set = json!({"keys": [jwk]}).to_string();
        assert!(
            matches!(IssuerKeys::parse(set.as_bytes()), Err(KeySetError::Unusable(1))),
            "{set}"
        );
        // Beside good ones they do no harm.
        let set = json!({"keys": [jwk, keys.p256.jwk()]}).to_string();
        assert_eq!(IssuerKeys::parse(set.as_bytes()).unwrap().count(), 1);
    }
    for document in ["", "{}", "[]", "{\"keys\":{}}", "<html>"] {
        assert!(matches!(
            IssuerKeys::parse(document.as_bytes()),
            Err(KeySetError::Json(_))
        ));
    }
    // A key may say which algorithm it is for.
    let set = json!({"keys": [change(&keys.rsa, json!({"alg": "RS256", "key_ops": ["verify"]}))]}).to_string();
    let only = IssuerKeys::parse(set.as_bytes()).unwrap();
    let check = |algorithm| {
        let text = keys.rsa.token_by(algorithm, &claims());
        rules()
            .check(&BearerToken::parse(&text).unwrap(), Some(&only), NOW)
            .map(|_| ())
    };
    assert_eq!(check("RS256"), Ok(()));
    assert_eq!(check("RS384"), Err(BearerRefusal::UnknownKey));
    // A point that is not on the curve checks nothing.
    let set = json!({"keys": [change(&keys.p256, json!({"x": encode([1; 32])}))]}).to_string();
    let broken = IssuerKeys::parse(set.as_bytes()).unwrap();
    let text = keys.p256.token(&claims());
    let checked = rules().check(&BearerToken::parse(&text).unwrap(), Some(&broken), NOW);
    assert_eq!(checked, Err(BearerRefusal::Signature));
    // Without a name in the token, two keys of a kind are no clear choice.
    let set = key_set(&[&keys.p256, &SigningKey::p256("second")]);
    let two = IssuerKeys::parse(&set).unwrap();
    let text = keys.p256.sign("ES256", r#"{"alg":"ES256"}"#, &claims().to_string());
    let checked = rules().check(&BearerToken::parse(&text).unwrap(), Some(&two), NOW);
    assert_eq!(checked, Err(BearerRefusal::UnknownKey));
}

#[test]
fn a_credential_is_recognised_by_its_text() {
    assert_eq!(bearer_text("Bearer a.b.c"), Some("a.b.c"));
    assert_eq!(bearer_text("bEARER  a.b.c "), Some("a.b.c"));
    assert_eq!(
        bearer_text("eyJhbGciOiJFUzI1NiJ9.e30.AA"),
        Some("eyJhbGciOiJFUzI1NiJ9.e30.AA")
    );
    for other in [
        "",
        "Bearer",
        "SharedAccessSignature sr=a&sig=b&se=c",
        "Basic eyJ",
        "Bearerx y",
        "éBearer",
    ] {
        assert_eq!(bearer_text(other), None, "{other}");
    }
}

#[test]
fn names_in_logs_are_short_and_printable_and_debug_shows_no_token() {
    let name = |claims: &Value| check(&KEYS.p256.token(claims)).unwrap().name.to_string();
    assert_eq!(name(&with("sub", json!("a\nb;c\u{1b}[31m"))), "a?b?c?[31m");
    assert_eq!(name(&with("sub", json!("x".repeat(1000)))).chars().count(), 64);
    let mut claims = without("sub");
    assert_eq!(name(&claims), "without name");
    claims["oid"] = json!("0000-1111");
    assert_eq!(name(&claims), "0000-1111");
    let text = KEYS.p256.token(&super::tests::claims());
    let debug = format!("{:?}", BearerToken::parse(&text).unwrap());
    assert!(
        !debug.contains("alice") && !debug.contains(text.rsplit('.').next().unwrap()),
        "{debug}"
    );
}
