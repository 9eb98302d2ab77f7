//! The context of a span: what its children need to know, on this node, on another one, or in a client's `traceparent`.
//!
//! W3C Trace Context, level 1, <https://www.w3.org/TR/trace-context/>; `tracestate` is not carried on.

use std::fmt::Write as _;

use bytes::Bytes;

/// Names of message properties that may hold a `traceparent`, the first one that does counts: that of W3C's draft for AMQP, and that of Azure's
/// SDKs for messaging.
pub const CONTEXT_PROPERTIES: [&str; 2] = ["traceparent", "Diagnostic-Id"];

/// A span and its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not all zero.
    pub trace: [u8; 16],
    /// The span; not all zero.
    pub span: [u8; 8],
    /// Whether it is recorded, so that its children are.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Length of a context in calls between nodes and in stored messages.
    pub const WIRE_BYTES: usize = 24;

    /// The context in a `traceparent`; `None` for anything that is none. A later version than 00 counts as far as it has the form
    /// of 00.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let text = traceparent.trim().as_bytes();
        let (head, rest) = text.split_at_checked(55)?;
        let version = hex::<1>(head.get(..2)?)?[0];
        let dashes = [2, 35, 52].iter().all(|index| head.get(*index) == Some(&b'-'));
        let is_known = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|next| *next == b'-'),
        };
        if !dashes || !is_known {
            return None;
        }
        let context = Self {
            trace: hex(head.get(3..35)?)?,
            span: hex(head.get(36..52)?)?,
            is_sampled: hex::<1>(head.get(53..55)?)?[0] & 1 != 0,
        };
        context.is_valid().then_some(context)
    }

    /// As a `traceparent` of version 00.
    #[must_use]
    pub fn to_traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        let mut push = |bytes: &[u8]| {
            for byte in bytes {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
            text.push('-');
        };
        push(&self.trace);
        push(&self.span);
        text.push_str(if self.is_sampled { "01" } else { "00" });
        text
    }

    /// The form in calls between nodes and in stored messages: trace and span of a recorded one. Nothing for all others, whose
    /// parts on other nodes are not recorded either.
    #[must_use]
    pub fn to_wire(context: Option<Self>) -> Bytes {
        let Some(context) = context.filter(|context| context.is_sampled) else {
            return Bytes::new();
        };
        let mut wire = [0; Self::WIRE_BYTES];
        wire[..16].copy_from_slice(&context.trace);
        wire[16..].copy_from_slice(&context.span);
        Bytes::copy_from_slice(&wire)
    }

    /// The context in [that form](Self::to_wire); `None` for anything that is none. What a later version has appended is not read.
    #[must_use]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let context = Self {
            trace: wire.get(..16)?.try_into().ok()?,
            span: wire.get(16..Self::WIRE_BYTES)?.try_into().ok()?,
            is_sampled: true,
        };
        context.is_valid().then_some(context)
    }

    fn is_valid(&self) -> bool {
        self.trace != [0; 16] && self.span != [0; 8]
    }
}

/// Lower-case hexadecimal digits; the standard refuses others.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_comes_back_as_it_was_read() {
        let context = TraceContext::parse(SAMPLED).unwrap();
        assert!(context.is_sampled);
        assert_eq!(context.to_traceparent(), SAMPLED);
        let not_sampled = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").unwrap();
        assert!(!not_sampled.is_sampled);
        // Flags of a later version.
        assert!(
            TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fd")
                .unwrap()
                .is_sampled
        );
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-is-new";
        assert_eq!(TraceContext::parse(later), Some(context));
    }

    #[test]
    fn anything_else_is_no_context() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
            "|0af7651916cd43dd8448eb211c80319c.b7ad6b7169203331.",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
        for length in 0..TraceContext::WIRE_BYTES {
            assert_eq!(TraceContext::from_wire(&vec![1; length]), None);
        }
        assert_eq!(TraceContext::from_wire(&[0; TraceContext::WIRE_BYTES]), None);
    }

    #[test]
    fn only_recorded_contexts_travel_between_nodes() {
        let context = TraceContext::parse(SAMPLED).unwrap();
        let wire = TraceContext::to_wire(Some(context));
        assert_eq!(TraceContext::from_wire(&wire), Some(context));
        let longer = [&wire[..], &[1, 2, 3]].concat();
        assert_eq!(
            TraceContext::from_wire(&longer),
            Some(context),
            "a later version has appended something"
        );
        let not_sampled = TraceContext {
            is_sampled: false,
            ..context
        };
        assert!(TraceContext::to_wire(Some(not_sampled)).is_empty() && TraceContext::to_wire(None).is_empty());
    }
}
