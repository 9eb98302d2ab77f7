use proptest::prelude::*;

use super::*;

const SIG: &str = "rjpFnOHAmNX1p%2FKKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3D";

fn defect(text: &str) -> Defect {
    match SasToken::parse(text) {
        Err(SasRefusal::Malformed(defect)) => defect,
        other => panic!("{text}: {other:?}"),
    }
}

fn expiry(se: &str) -> Option<u64> {
    SasToken::parse(&format!("SharedAccessSignature sr=h&sig={SIG}&se={se}"))
        .ok()
        .map(|token| token.expires().0)
}

#[test]
fn every_order_of_the_fields_and_any_case_of_names_gives_the_same_token() {
    let fields = [
        "SR=h%2Fdevices%2Fd",
        &format!("sIg={SIG}"),
        "se=1900000000",
        "skn=service",
    ];
    let mut orders = 0;
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| ![a, b].contains(c)) {
                let d = 6 - a - b - c;
                let text = format!("sharedaccessSIGNATURE \t{}", [a, b, c, d].map(|n| fields[n]).join("&"));
                let token = SasToken::parse(&text).unwrap();
                assert_eq!(
                    (token.resource(), token.expiry(), token.policy()),
                    ("h%2Fdevices%2Fd", "1900000000", Some("service"))
                );
                assert_eq!(token.expires(), UnixMillis(1_900_000_000_000));
                orders += 1;
            }
        }
    }
    assert_eq!(orders, 24);
}

#[test]
fn every_escaping_of_the_signature_gives_the_same_bytes() {
    let plain = "+jpFnOHAmNX1p/KKHsF9VuY7uPf5V3Y0gTeDrNQTkjk=";
    let wanted = decode_signature(plain).unwrap();
    for text in [
        "%2BjpFnOHAmNX1p%2FKKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3D",
        "%2bjpFnOHAmNX1p%2fKKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3d",
        "%2BjpFnOHAmNX1p/KKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3D",
        "%20jpFnOHAmNX1p/KKHsF9VuY7uPf5V3Y0gTeDrNQTkjk",
        "+%6ApFnOHAmNX1p/KKHsF9VuY7uPf5V3Y0gTeDrNQTkjk=",
    ] {
        assert_eq!(decode_signature(text), Some(wanted), "{text}");
    }
    // Bits left over, one byte too few or too many, another alphabet.
    for text in [
        "",
        "AAAA",
        &plain.replace('k', "l"),
        &plain[1..],
        &format!("A{plain}"),
        &plain.replace('/', "_"),
    ] {
        assert_eq!(decode_signature(text), None, "{text}");
    }
}

#[test]
fn the_expiry_may_be_a_fraction_or_absurdly_large() {
    assert_eq!(expiry("1900000000"), Some(1_900_000_000_000));
    assert_eq!(expiry("0"), Some(0));
    assert_eq!(expiry("1900000000.5"), Some(1_900_000_000_500));
    assert_eq!(expiry("1.9e9"), Some(1_900_000_000_000));
    assert_eq!(expiry("1%2E9e%2B9"), Some(1_900_000_000_000));
    assert_eq!(expiry("18446744073709551615"), Some(u64::MAX));
    assert_eq!(expiry(&"9".repeat(400)), Some(u64::MAX));
    assert_eq!(expiry("1e999"), Some(u64::MAX));
    for se in [
        "", "-1", "+1", "soon", "inf", "nan", "0x10", "1 0", ".5", "1.2.3", "1e", "%31%ff",
    ] {
        assert_eq!(expiry(se), None, "{se}");
    }
}

#[test]
fn unreadable_tokens_name_their_defect() {
    assert_eq!(SasToken::parse("").unwrap_err(), SasRefusal::Missing);
    assert_eq!(SasToken::parse("  \r\n").unwrap_err(), SasRefusal::Missing);
    assert_eq!(defect("Bearer abc"), Defect::Prefix);
    assert_eq!(defect("SharedAccessSignature"), Defect::Prefix);
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=h&sig={SIG}&se=1 trailing")),
        Defect::Prefix
    );
    assert_eq!(
        defect(&format!("\"SharedAccessSignature sr=h&sig={SIG}&se=1\"")),
        Defect::Prefix
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=h&sig={SIG}&se=1&se=2")),
        Defect::Duplicate
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=h&sig={SIG}&se=1&skn&sr")),
        Defect::Field
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sig={SIG}&se=1")),
        Defect::Resource
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=&sig={SIG}&se=1")),
        Defect::Resource
    );
    assert_eq!(defect("SharedAccessSignature sr=h&se=1"), Defect::Signature);
    assert_eq!(defect("SharedAccessSignature sr=h&sig=AAAA&se=1"), Defect::Signature);
    assert_eq!(defect(&format!("SharedAccessSignature sr=h&sig={SIG}")), Defect::Expiry);
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=h&sig={SIG}&se=1&skn=%ff")),
        Defect::Policy
    );
    assert_eq!(
        defect(&format!(
            "SharedAccessSignature sr=h&sig={SIG}&se=1&skn={}",
            "p".repeat(65)
        )),
        Defect::Policy
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sr=h{}", "&a=b".repeat(16))),
        Defect::TooManyFields
    );
    assert_eq!(
        defect(&format!("SharedAccessSignature sr={}", "h".repeat(5000))),
        Defect::TooLong
    );
}

#[test]
fn an_empty_policy_name_counts_as_absent_and_unknown_fields_are_ignored() {
    let text = format!("SharedAccessSignature sr=h&sig={SIG}&se=1&skn=&flavour=new");
    assert_eq!(SasToken::parse(&text).unwrap().policy(), None);
}

#[test]
fn debug_and_display_hide_the_signature() {
    let text = format!("SharedAccessSignature sr=h&sig={SIG}&se=1&skn=p");
    let token = SasToken::parse(&text).unwrap();
    assert_eq!(token.to_string(), "sr=h se=1 skn=p");
    assert_eq!(format!("{token:?}"), "SasToken(sr=h se=1 skn=p sig=…)");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = SasToken::parse(&text);
        let _ = SasToken::parse(&format!("SharedAccessSignature {text}"));
    }

    #[test]
    fn no_mixture_of_fields_panics(fields in prop::collection::vec("(sr|sig|se|skn|x)?=?[a-zA-Z0-9%/+= .\u{e9}-]{0,50}", 0..8)) {
        let _ = SasToken::parse(&format!("SharedAccessSignature {}", fields.join("&")));
    }
}
