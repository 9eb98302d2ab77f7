//! Streams cut at any point, and garbage.

use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, TelemetryMessage,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn chunk(first: u64, records: u32, body: usize) -> Chunk {
    let identity = IdentityId::device(DeviceId::parse("d").unwrap());
    let generation = GenerationId("1".into());
    let auth = AuthMethod {
        scope: AuthScope::Device,
        kind: AuthType::Sas,
    };
    let origin = Origin {
        identity: &identity,
        generation: &generation,
        auth,
        model_id: None,
    };
    let mut writer = BatchWriter::new();
    let body = vec![7; body];
    for _ in 0..records {
        let message = TelemetryMessage {
            payload: &body,
            ..TelemetryMessage::default()
        };
        writer.push(&origin, &message, UnixMillis(1)).unwrap();
    }
    let stream = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1),
        core: 0,
    };
    let entry = writer.close(BatchHeader {
        stream,
        batch_number: 1,
        enqueued: UnixMillis(1),
    });
    Chunk::received(entry, SequenceNumber(first), records, UnixMillis(first * 10)).unwrap()
}

fn status(next: u64) -> PartitionStatus {
    PartitionStatus {
        begin: SequenceNumber(1),
        next: SequenceNumber(next),
        last_enqueued: UnixMillis(3),
        retained_bytes: 4,
    }
}

#[test]
fn frames_are_decoded_at_whatever_point_they_are_cut() {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    for _ in 0..50 {
        let mut writer = Writer::default();
        let sent = [
            chunk(0, 3, 10),
            chunk(3, 2, 60_000),
            chunk(5, 1, 1_500_000),
            chunk(6, 1, 5),
        ];
        for (number, chunk) in sent.iter().enumerate() {
            writer.events(chunk, number == 1);
        }
        writer.status(&status(7));
        writer.end();
        let mut bytes = Vec::new();
        while let Some(chunk) = writer.take() {
            assert!(chunk.len() <= MAX_CHUNK_BYTES);
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(writer.bytes(), 0);
        let mut parser = Parser::default();
        let mut rest = Bytes::from(bytes);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let most = if rng.random_bool(0.5) { 40 } else { 700_000 };
            let part = rest.split_to(rng.random_range(1..=most).min(rest.len()));
            parser.push(part);
            while let Some(frame) = parser.next().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames.len(), 6);
        for (number, (sent, frame)) in sent.iter().zip(&frames).enumerate() {
            let Frame::Events(chunk, is_overtaken) = frame else {
                panic!("{frame:?}")
            };
            assert_eq!(*is_overtaken, number == 1);
            assert_eq!(chunk.next_sequence(), sent.next_sequence());
            assert_eq!((chunk.enqueued(), chunk.len()), (sent.enqueued(), sent.len()));
            assert_eq!(chunk.entry(), sent.entry());
        }
        assert!(matches!(&frames[4], Frame::Status(decoded) if *decoded == status(7)));
        assert!(matches!(frames[5], Frame::End));
    }
}

#[test]
fn a_large_entry_is_not_copied() {
    let sent = chunk(0, 1, 500_000);
    let mut writer = Writer::default();
    writer.events(&sent, false);
    let head = writer.take().unwrap();
    let entry = writer.take().unwrap();
    assert_eq!(entry.as_ptr(), sent.entry().as_ptr());
    let mut parser = Parser::default();
    let whole = Bytes::from([&head[..], &entry[..]].concat());
    parser.push(whole.clone());
    let Some(Frame::Events(chunk, _)) = parser.next().unwrap() else {
        panic!()
    };
    assert_eq!(chunk.entry().as_ptr(), whole[head.len()..].as_ptr());
}

#[test]
fn garbage_is_an_error() {
    let next = |bytes: &[u8]| {
        let mut parser = Parser::default();
        parser.push(Bytes::copy_from_slice(bytes));
        parser.next()
    };
    assert!(matches!(next(&[9, 0, 0, 0, 0]), Err(BadFrame::Kind(9))));
    assert!(matches!(
        next(&[EVENTS, 0xff, 0xff, 0xff, 0xff]),
        Err(BadFrame::Length(_))
    ));
    assert!(matches!(next(&[STATUS, 0, 0, 0, 1, 0]), Err(BadFrame::Length(1))));
    let mut stamp = vec![EVENTS, 0, 0, 0, 25];
    stamp.extend([0; 25]);
    assert!(matches!(next(&stamp), Err(BadFrame::Entry(_))));
    assert!(next(&stamp[..20]).unwrap().is_none(), "the rest may follow");
}
