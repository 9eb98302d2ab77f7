//! The SASL mechanism TPM: messages of any bytes in any number never panic, stay bounded, and come in order.
#![no_main]

use holdfast_amqp::sasl_tpm::{MAX_MESSAGE_BYTES, TpmExchange, TpmMessage, challenge_parts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: Vec<&[u8]>| {
    let mut exchange = TpmExchange::default();
    let mut turn = 0;
    for message in &messages {
        let Ok(read) = exchange.receive(message) else {
            // A refused exchange is over.
            assert!(exchange.receive(b"\0scope\0id\0key").is_err());
            break;
        };
        let (here, length) = match read {
            TpmMessage::Segment => continue,
            TpmMessage::Identity {
                id_scope,
                registration_id,
                endorsement_key,
            } => (1, id_scope.len() + registration_id.len() + endorsement_key.len()),
            TpmMessage::StorageRootKey(key) => (2, key.len()),
            TpmMessage::Continue => (3, 0),
            TpmMessage::Token(token) => (4, token.len()),
        };
        assert_eq!(here, turn + 1);
        assert!(length <= MAX_MESSAGE_BYTES);
        turn = here;
    }
    if let Some(challenge) = messages.first()
        && let Some([first, rest]) = challenge_parts(challenge)
    {
        assert_eq!([&first[1..], &rest[1..]].concat(), *challenge);
    }
});
