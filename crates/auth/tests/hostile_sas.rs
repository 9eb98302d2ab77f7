//! Hostile tokens: refused for the right reason, in bounded time, and never by a panic.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::time::{Duration, Instant};

use holdfast_auth::{
    HubNames, Key, KeyPair, ResourcePath, SasRefusal, SasToken, check_claims, sign, sign_identity, verify,
};
use holdfast_model::{DeviceId, IdentityId, UnixMillis};

const HOST: &str = "hub1.example.com";

/// 2030-01-01, in seconds.
const NOW: u64 = 1_893_456_000;

/// Far more than any of the cases may take.
const BOUND: Duration = Duration::from_secs(2);

fn keys() -> KeyPair {
    KeyPair {
        primary: Key::from_bytes(vec![1; 32]).unwrap(),
        secondary: Key::from_bytes(vec![2; 32]).unwrap(),
    }
}

/// As the hub decides about a token of device `dev-1`.
fn decide(token: &str) -> Result<(), SasRefusal> {
    let identity = IdentityId::device(DeviceId::parse("dev-1").unwrap());
    let resource = ResourcePath::identity(&identity);
    let (names, now) = (HubNames::of_hub(HOST, ["alias.example.com"]), UnixMillis(NOW * 1000));
    let token = SasToken::parse(token)?;
    check_claims(&token, &resource, &names, now)?;
    verify(&token, &resource, &keys(), &names, now).map(|_| ())
}

fn good() -> String {
    let identity = IdentityId::device(DeviceId::parse("dev-1").unwrap());
    sign_identity(HOST, &identity, &keys().primary, NOW + 3600)
}

/// A token for any resource, with a good signature over it.
fn over(resource: &str) -> String {
    sign(resource, keys().primary.as_bytes(), None, NOW + 3600)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that a refusal takes")]
fn hostile_tokens_are_refused_cheaply() {
    let good = good();
    assert_eq!(decide(&good), Ok(()));
    let (head, fields) = good.split_once(' ').unwrap();
    let fields: Vec<&str> = fields.split('&').collect();
    let with = |fields: &[&str]| format!("{head} {}", fields.join("&"));
    let mut cases: Vec<(String, String)> = Vec::new();
    let mut case = |what: &str, token: String| cases.push((what.to_owned(), token));

    // The order of the fields means nothing; a field twice, or missing, does.
    for (a, b, c) in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)] {
        let reordered = with(&[fields[a], fields[b], fields[c]]);
        assert_eq!(decide(&reordered), Ok(()), "{reordered}");
    }
    let others = [
        "sr=hub1.example.com%2Fdevices%2Fdev-2",
        "sig=AAAA",
        "se=99999999999",
        "skn=",
        "skn=iothubowner",
    ];
    for (at, field) in fields.iter().enumerate() {
        let rest: Vec<&str> = fields
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, f)| *f)
            .collect();
        case(&format!("without {field}"), with(&rest));
        for place in 0..=fields.len() {
            let mut twice = fields.clone();
            twice.insert(place, field);
            case(&format!("{field} twice"), with(&twice));
            let name = field.split('=').next().unwrap();
            for other in others.iter().filter(|other| other.starts_with(&format!("{name}="))) {
                let mut twice = fields.clone();
                twice.insert(place, other);
                case(&format!("{field} and {other}"), with(&twice));
            }
            for (spelled, value) in [
                (name.to_uppercase(), ""),
                (format!("%{:02x}{}", name.as_bytes()[0], &name[1..]), "x"),
            ] {
                let mut twice = fields.clone();
                let spelled = format!("{spelled}={value}");
                twice.insert(place, &spelled);
                // Another name in any spelling must not replace the field: either it is the field twice, or it is ignored.
                if let Err(refusal) = decide(&with(&twice)) {
                    assert_eq!(refusal.reason().as_str(), "malformed", "{spelled}");
                }
            }
        }
        let empty = format!("{}=", field.split('=').next().unwrap());
        let replaced: Vec<&str> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| if i == at { &*empty } else { f })
            .collect();
        case(&format!("{empty} empty"), with(&replaced));
    }

    // Cut at every byte, and one byte of everything changed.
    for cut in 0..good.len() {
        case(&format!("cut after {cut}"), good[..cut].to_owned());
    }
    for at in 0..good.len() {
        for replacement in ["\0", "%", "&", "=", " ", "é", "A"] {
            if good[at..].starts_with(replacement) {
                continue;
            }
            let changed = format!("{}{replacement}{}", &good[..at], &good[at + 1..]);
            // The scheme may be written in any case, and a digit of the expiry is part of what is signed.
            if decide(&changed).is_ok() {
                assert!(
                    changed.eq_ignore_ascii_case(&good),
                    "byte {at} as {replacement:?}: {changed}"
                );
                continue;
            }
            case(&format!("byte {at} as {replacement:?}"), changed);
        }
    }

    // Other resources, with a good signature of the device's key.
    for resource in [
        "hub1.example.com/devices/dev-2",
        "hub1.example.com/devices/dev-1 ",
        "hub1.example.com/devices/dev-1%20",
        "hub1.example.com/devices/dev-10",
        "hub1.example.com/devices/dev-",
        "hub1.example.com/devices/de",
        "hub1.example.com/devices/dev%2D2",
        "hub1.example.com/devices/\u{0501}ev-1",
        "hub1.example.com/devices/dev\u{2010}1",
        "hub1.example.com/devices/dev-1\u{200b}",
        "hub1.example.com/devices/dev-\u{ff11}",
        "hub1.example.com/devices/dev-1/modules/m",
        "hub1.example.com/devices/../devices/dev-1",
        "hub1.example.com//devices/dev-1",
        "hub1.example.com/devices//dev-1",
        "hub1.example.com/devices/dev-1/../dev-2",
        "hub1.example.com/device/dev-1",
        "hub1.example.com/Devices2/dev-1",
        "/devices/dev-1",
        "devices/dev-1",
        "hub2.example.com/devices/dev-1",
        "hub1.example.com.evil.test/devices/dev-1",
        "evil.test/hub1.example.com/devices/dev-1",
        "hub1.example.com@evil.test/devices/dev-1",
        "evil.test%2Fhub1.example.com/devices/dev-1",
        "hub1\u{2024}example.com/devices/dev-1",
        "hub1.example.com\u{ff0f}devices\u{ff0f}dev-1",
        "xhub1.example.com/devices/dev-1",
        "hub1.example.co/devices/dev-1",
        "hub1..example.com/devices/dev-1",
        "hub1.device.device.example.com/devices/dev-1",
        "hub1.admin.example.com/devices/dev-1",
        "hub1.example.com:x/devices/dev-1",
        "hub1.example.com:8883:1/devices/dev-1",
        "",
        "/",
        "%",
        "%2",
        "%zz",
        "%00",
        "hub1.example.com/devices/dev-1%00",
        "hub1.example.com/devices/%",
        "hub1.example.com/devices/dev-1%2Fmodules%2Fm",
        "hub1.example.com%252Fdevices%252Fdev-1",
        "hub1.example.com/devices/dev-1?x=y",
        "hub1.example.com/devices/dev-1#x",
        "hub1.example.com\\devices\\dev-1",
    ] {
        case(&format!("for {resource:?}"), over(resource));
    }

    // The expiry.
    let signed_at = |se: &str| {
        let resource = fields.iter().find(|field| field.starts_with("sr=")).unwrap();
        let signature = fields.iter().find(|field| field.starts_with("sig=")).unwrap();
        with(&[resource, signature, &format!("se={se}")])
    };
    for se in [
        "0",
        "1",
        "-1",
        "+1893459600",
        "1893459600.0",
        "189345 9600",
        "0x70DBD880",
        "1e12",
        "NaN",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "1893455999",
        "１８９３４５９６００",
        "",
    ] {
        case(&format!("se={se}"), signed_at(se));
    }
    case(
        "long ended",
        sign(
            &format!("{HOST}/devices/dev-1"),
            keys().primary.as_bytes(),
            None,
            NOW - 100_000,
        ),
    );

    // The signature.
    for sig in [
        "",
        "=",
        "====",
        "AAAA",
        "%",
        "%3D",
        "!!!!",
        "null",
        "none",
        &"A".repeat(44),
        &"A".repeat(100_000),
    ] {
        let replaced: Vec<String> = fields
            .iter()
            .map(|field| {
                if field.starts_with("sig=") {
                    format!("sig={sig}")
                } else {
                    (*field).to_owned()
                }
            })
            .collect();
        let replaced: Vec<&str> = replaced.iter().map(String::as_str).collect();
        case(&format!("sig of {} bytes", sig.len()), with(&replaced));
    }
    for key in [
        &[][..],
        &[1; 31],
        &[1; 33],
        &[0; 32],
        b"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    ] {
        case(
            "another key",
            sign(&format!("{HOST}/devices/dev-1"), key, None, NOW + 3600),
        );
    }

    // Size.
    case("a megabyte", format!("{head} sr={}", "a".repeat(1 << 20)));
    case("many fields", format!("{good}{}", "&x=y".repeat(100_000)));
    case(
        "many escapes",
        format!("{head} sr={}&sig=AAAA&se=1", "%41".repeat(100_000)),
    );
    case("many slashes", over(&format!("{HOST}{}", "/".repeat(100_000))));
    for scheme in [
        "",
        "Bearer",
        "Basic",
        "SharedAccessSignatures",
        "SharedAccessSignature,",
        "\u{feff}SharedAccessSignature",
    ] {
        case(&format!("scheme {scheme:?}"), format!("{scheme} {}", fields.join("&")));
    }
    case("twice the scheme", format!("{head} {good}"));

    let mut accepted = Vec::new();
    let mut reasons = std::collections::BTreeMap::<String, usize>::new();
    for (what, token) in &cases {
        let begun = Instant::now();
        let Err(refusal) = decide(token) else {
            accepted.push(what);
            continue;
        };
        assert!(begun.elapsed() < BOUND, "{what}");
        let text = refusal.to_string();
        assert!(text.len() < 300 && !text.contains(['\0', '\n']), "{what}: {text:?}");
        *reasons.entry(refusal.reason().to_string()).or_default() += 1;
    }
    assert_eq!(accepted, [] as [&String; 0]);
    println!("hostile tokens: {} cases, {reasons:?}", cases.len());
    assert!(cases.len() >= 500, "{}", cases.len());
    for reason in ["malformed", "host", "scope", "signature", "expired"] {
        assert!(reasons.contains_key(reason), "{reason}: {reasons:?}");
    }
}
