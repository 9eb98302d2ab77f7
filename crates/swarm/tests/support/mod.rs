//! A broker for tests: stores what it acknowledges, and misbehaves on request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A broker's treatment of messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Keeps and acknowledges each.
    Honest,
    /// Cuts each connection after so many messages, having kept the last one without acknowledging it.
    CutsAfter(u32),
    /// Acknowledges each, and does not keep one in so many.
    Forgets(u32),
    /// Cuts each connection instead of answering so many pings.
    CutsAfterPings(u32),
    /// Acknowledges pairs of messages in reverse.
    AcknowledgesBackwards,
}

/// Messages in the order in which they were kept: topic and payload.
pub(crate) type Kept = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Starts a broker on a free port; it lives as long as the process.
pub(crate) fn broker(habit: Habit) -> (SocketAddr, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Kept::default();
    let shared = kept.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = shared.clone();
            thread::spawn(move || serve(stream, habit, &kept));
        }
    });
    (address, kept)
}

/// Until the connection breaks or the client disconnects.
fn serve(mut stream: TcpStream, habit: Habit, kept: &Kept) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut count, mut pings) = (0, 0);
    let mut held = None;
    loop {
        let (first, body) = packet(&mut stream)?;
        match first >> 4 {
            1 => stream.write_all(&[0x20, 2, 0, 0]).ok()?,
            3 => {
                count += 1;
                let topic_length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (head, payload) = body.split_at(2 + topic_length + 2);
                let topic = String::from_utf8(head[2..2 + topic_length].to_vec()).unwrap();
                let id = [head[head.len() - 2], head[head.len() - 1]];
                if !matches!(habit, Habit::Forgets(every) if count % every == 0) {
                    kept.lock().unwrap().push((topic, payload.to_vec()));
                }
                match habit {
                    Habit::CutsAfter(limit) if count == limit => return None,
                    Habit::AcknowledgesBackwards => match held.take() {
                        None => held = Some(id),
                        Some(earlier) => {
                            puback(&mut stream, id)?;
                            puback(&mut stream, earlier)?;
                        }
                    },
                    _ => puback(&mut stream, id)?,
                }
            }
            12 => {
                pings += 1;
                if habit == Habit::CutsAfterPings(pings) {
                    return None;
                }
                stream.write_all(&[0xd0, 0]).ok()?;
            }
            _ => return None,
        }
    }
}

fn puback(stream: &mut TcpStream, id: [u8; 2]) -> Option<()> {
    stream.write_all(&[0x40, 2, id[0], id[1]]).ok()
}

fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let first = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}
