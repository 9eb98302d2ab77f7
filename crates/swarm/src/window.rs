//! The unacknowledged messages of one connection, and whether acknowledgements arrive in order.
//!
//! Pure. Packet ids follow from message numbers ([`crate::batch::packet_id`]), so the window is a first number and a
//! ring of sending times. Servers send PUBACKs in the order of the PUBLISHes (Spec device-mqtt §4.2 rule 16); one out of
//! order is counted and still accepted.

use crate::batch::packet_id;

/// Which message an acknowledgement belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The oldest outstanding message; it was sent at this time.
    InOrder {
        /// As given to [`Window::sent`].
        sent_us: u32,
    },
    /// An outstanding message, while an older one is still open.
    OutOfOrder {
        /// As given to [`Window::sent`].
        sent_us: u32,
    },
    /// A packet id that is not outstanding, or acknowledged twice.
    Unknown,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    sent_us: u32,
    acknowledged: bool,
}

/// The outstanding messages of one connection: numbers `first()..next()`.
#[derive(Debug)]
pub struct Window {
    slots: Box<[Slot]>,
    first: u64,
    next: u64,
}

impl Window {
    /// An empty window for up to `size` messages, the first of which will be number `first`. `size` is 1 to 65,535.
    #[must_use]
    pub fn new(size: usize, first: u64) -> Self {
        Self {
            slots: vec![Slot::default(); size.clamp(1, 65_535)].into(),
            first,
            next: first,
        }
    }

    /// The oldest message without acknowledgement, or the next one to send.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The next message to send.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many messages may be sent now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.slots.len() - self.outstanding()
    }

    /// How many messages are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        // Never more than the slots.
        (self.next - self.first) as usize
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        let index = (number % self.slots.len() as u64) as usize;
        &mut self.slots[index]
    }

    /// Records that the next `count` messages, at most [`Window::free`], go out at `sent_us`.
    pub fn sent(&mut self, count: usize, sent_us: u32) {
        debug_assert!(count <= self.free());
        for number in self.next..self.next + count as u64 {
            *self.slot(number) = Slot {
                sent_us,
                acknowledged: false,
            };
        }
        self.next += count as u64;
    }

    /// Processes a PUBACK.
    pub fn acknowledge(&mut self, id: u16) -> Acknowledged {
        if self.outstanding() > 0 && packet_id(self.first) == id {
            let sent_us = self.slot(self.first).sent_us;
            self.first += 1;
            while self.first < self.next && self.slot(self.first).acknowledged {
                self.first += 1;
            }
            return Acknowledged::InOrder { sent_us };
        }
        // Ids go up by one and start again after 65,535 values, which a window never spans.
        let behind = (u64::from(id) + 65_535 - u64::from(packet_id(self.first))) % 65_535;
        let number = self.first + behind;
        if number >= self.next || self.slot(number).acknowledged {
            return Acknowledged::Unknown;
        }
        let slot = self.slot(number);
        slot.acknowledged = true;
        Acknowledged::OutOfOrder { sent_us: slot.sent_us }
    }

    /// The messages that were acknowledged while an older one was still open.
    pub fn acknowledged_early(&mut self) -> Vec<u64> {
        (self.first..self.next)
            .filter(|number| self.slot(*number).acknowledged)
            .collect()
    }

    /// Forgets the unacknowledged messages: they are sent again, from [`Window::first`] on.
    pub fn rewind(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_in_order_move_the_window_over_the_id_wrap() {
        let mut window = Window::new(4, 65_533);
        window.sent(4, 10);
        assert_eq!(window.free(), 0);
        for number in 65_533..65_537 {
            assert_eq!(
                window.acknowledge(packet_id(number)),
                Acknowledged::InOrder { sent_us: 10 }
            );
        }
        assert_eq!((window.first(), window.outstanding()), (65_537, 0));
    }

    #[test]
    fn an_acknowledgement_out_of_order_is_reported_and_counted_once() {
        let mut window = Window::new(4, 0);
        window.sent(3, 1);
        assert_eq!(
            window.acknowledge(packet_id(1)),
            Acknowledged::OutOfOrder { sent_us: 1 }
        );
        assert_eq!(window.acknowledge(packet_id(1)), Acknowledged::Unknown);
        assert_eq!(window.acknowledge(packet_id(3)), Acknowledged::Unknown);
        assert_eq!(window.acknowledged_early(), [1]);
        assert_eq!(window.acknowledge(packet_id(0)), Acknowledged::InOrder { sent_us: 1 });
        assert_eq!((window.first(), window.next()), (2, 3));
    }

    #[test]
    fn a_rewound_window_sends_the_open_messages_again() {
        let mut window = Window::new(8, 0);
        window.sent(5, 1);
        window.acknowledge(packet_id(0));
        window.rewind();
        assert_eq!((window.first(), window.next(), window.free()), (1, 1, 8));
    }

    #[test]
    fn nothing_outstanding_makes_every_acknowledgement_unknown() {
        let mut window = Window::new(2, 0);
        assert_eq!(window.acknowledge(packet_id(0)), Acknowledged::Unknown);
    }
}
