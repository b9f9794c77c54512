//! The machine alone: limits, repetition, the disk.

use std::time::Duration;

use domain::MessageId;
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest, strategy::Strategy as _};
use tunnel::MessagePart;

use super::*;

#[test]
fn a_text_has_one_to_two_thousand_bytes() {
    assert!(Text::new("x").is_ok() && Text::new("x".repeat(MAX_TEXT)).is_ok());
    assert_eq!(Text::new(""), Err(TextError));
    assert_eq!(Text::new("x".repeat(MAX_TEXT + 1)), Err(TextError));
    assert_eq!(Text::new(format!("{}é", "x".repeat(MAX_TEXT - 1))), Err(TextError), "bytes, not letters");
    assert_eq!(TextError.to_string(), "a message has 1 to 2000 bytes of text");
}

#[test]
fn a_hundred_wait_for_one_and_a_thousand_for_all_and_a_refused_one_leaves_nothing() {
    let mut desk = Desk::new();
    for _ in 0..100 {
        desk.sends(&[1]).unwrap();
    }
    assert_eq!(desk.sends(&[1]), Err(ChatFull));
    assert_eq!(desk.sends(&[2, 1]), Err(ChatFull));
    assert_eq!(desk.chats.entries().count(), 100);
    for peer in 2..11 {
        for _ in 0..100 {
            desk.sends(&[peer]).unwrap();
        }
    }
    assert_eq!(desk.sends(&[11]), Err(ChatFull));
    assert_eq!(desk.chats.entries().count(), 1_000);
    desk.chats.handle_parted(peer(2));
    desk.sends(&[11]).unwrap();
}

#[test]
fn a_message_that_is_not_on_the_disk_is_neither_sent_nor_acknowledged() {
    let mut desk = Desk::new();
    let number = desk.sends(&[1]).unwrap()[0];
    assert!(!desk.chats.is_kept(number) && desk.chats.transmit(desk.now, peer(1)).is_empty());
    assert_eq!(desk.hears(1, 7, "hi"), None);
    assert_eq!(desk.hears(1, 7, "hi"), None, "again, and still not");
    assert_eq!(desk.keeps(true), [(peer(1), id(7))]);
    assert!(desk.chats.is_kept(number) && !desk.chats.transmit(desk.now, peer(1)).is_empty());
    assert_eq!(desk.hears(1, 7, "hi"), Some(id(7)), "its acknowledgement was lost");
    assert_eq!(desk.chats.entries().count(), 2);
}

#[test]
fn a_full_disk_fails_what_is_said_and_leaves_what_comes_with_its_sender() {
    let mut desk = Desk::new();
    let before = desk.sends(&[1]).unwrap()[0];
    desk.keeps(true);
    let number = desk.sends(&[1]).unwrap()[0];
    desk.hears(1, 7, "hi");
    assert!(desk.keeps(false).is_empty());
    assert_eq!(desk.state(number), Some(State::Unkept));
    assert_eq!(desk.state(before), Some(State::Waiting));
    assert_eq!(desk.chats.poll_keep(desk.now), None, "not at once again");
    desk.now += Duration::from_secs(10);
    assert_eq!(desk.keeps(true), [(peer(1), id(7))]);
}

#[test]
fn a_peer_gets_thirty_two_in_at_once_and_then_one_a_second() {
    let mut desk = Desk::new();
    for number in 0..60 {
        desk.hears(1, number, "flood");
    }
    assert_eq!(desk.keeps(true).len(), 32);
    assert_eq!(desk.hears(1, 32, "flood"), None);
    assert_eq!(desk.chats.entries().count(), 32);
    desk.hears(2, 200, "somebody else");
    assert_eq!(desk.chats.entries().count(), 33);
    for _ in 0..3 {
        desk.now += Duration::from_secs(1);
        for number in 32..60 {
            desk.hears(1, number, "flood");
        }
    }
    assert_eq!(desk.chats.entries().count(), 36);
}

#[test]
fn who_says_most_is_forgotten_first() {
    let mut desk = Desk::new();
    desk.hears(99, 0, "hello");
    let mut number = 0_u32;
    for _ in 0..260 {
        desk.now += Duration::from_secs(1);
        for from in 1..=8 {
            number += 1;
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            desk.chats.handle_part(desk.now, peer(from), part(MessageId::from_bytes(id), "noise"));
            let of_it = desk.chats.entries().filter(|entry| entry.peer == peer(from)).count();
            assert!(of_it <= 200 && desk.chats.entries().count() <= 1_000, "{of_it}");
        }
        desk.keeps(true);
    }
    assert_eq!(desk.chats.entries().count(), 1_000);
    assert_eq!(desk.chats.entries().next().unwrap().text, "hello");
    assert!(desk.chats.save().len() < 200_000);
}

#[test]
fn what_no_client_understands_is_sent_ever_more_rarely_and_expires_after_a_week() {
    let mut desk = Desk::new();
    let number = desk.sends(&[1]).unwrap()[0];
    desk.keeps(true);
    let (begun, mut frames, mut first_minute) = (desk.now, 0, 0);
    while desk.state(number).is_some_and(State::is_open) {
        desk.now = desk.chats.poll_deadline().unwrap().max(desk.now);
        desk.chats.handle_deadline(desk.now);
        while let Some(due) = desk.chats.poll_due(desk.now) {
            frames += desk.chats.transmit(desk.now, due).len();
        }
        if desk.now < begun + Duration::from_secs(60) {
            first_minute = frames;
        }
        if desk.chats.poll_deadline().is_some_and(|due| due <= desk.now) {
            desk.keeps(true);
        }
    }
    assert_eq!(desk.state(number), Some(State::Expired));
    assert!((5..=7).contains(&first_minute), "{first_minute}");
    let week = Duration::from_secs(7 * 24 * 3_600);
    assert!(desk.now >= begun + week && desk.now <= begun + week + Duration::from_secs(120));
    assert!((2_000..2_100).contains(&frames), "{frames}");
    desk.chats.handle_taken(desk.now, peer(1), desk.chats.entry(number).unwrap().id);
    assert_eq!(desk.state(number), Some(State::Expired), "too late");
}

#[test]
fn only_the_peer_it_went_to_acknowledges_a_message_and_only_after_it_went() {
    let mut desk = Desk::new();
    let number = desk.sends(&[1]).unwrap()[0];
    desk.keeps(true);
    let id = desk.chats.entry(number).unwrap().id;
    desk.chats.handle_taken(desk.now, peer(1), id);
    assert_eq!(desk.state(number), Some(State::Waiting));
    desk.chats.transmit(desk.now, peer(1));
    desk.chats.handle_taken(desk.now, peer(2), id);
    desk.chats.handle_taken(desk.now, peer(1), self::id(9));
    assert_eq!(desk.state(number), Some(State::Sent));
    desk.chats.handle_taken(desk.now, peer(1), id);
    assert_eq!(desk.state(number), Some(State::Delivered));
}

#[test]
fn a_restart_forgets_nothing_and_takes_no_message_twice() {
    let mut desk = Desk::new();
    let number = desk.sends(&[1]).unwrap()[0];
    desk.hears(2, 7, "hi");
    desk.keeps(true);
    desk.chats.transmit(desk.now, peer(1));
    let kept = desk.chats.save();
    let mut later = Desk::new();
    later.chats.restore(later.now, minicbor::decode(&kept).unwrap());
    assert_eq!(later.chats.save(), kept);
    assert_eq!(later.hears(2, 7, "hi"), Some(id(7)));
    assert_eq!(later.chats.poll_due(later.now), Some(peer(1)));
    assert!(!later.chats.transmit(later.now, peer(1)).is_empty());
    let of = later.chats.entry(number).unwrap().id;
    later.chats.handle_taken(later.now, peer(1), of);
    assert_eq!(later.state(number), Some(State::Delivered));
    assert!(later.sends(&[1]).unwrap()[0] > number, "numbers go on");
}

#[test]
fn what_is_said_is_not_shown_in_logs() {
    let mut desk = Desk::new();
    desk.hears(1, 7, "a secret");
    let said = Text::new("a secret").unwrap();
    let entry = desk.chats.entries().next().unwrap();
    assert!(!format!("{said:?} {entry:?}").contains("secret"));
}

proptest! {
    #[test]
    fn no_peer_can_break_a_bound_or_make_it_panic(
        steps in proptest::collection::vec(
            prop_oneof![
                4 => (0_u8..4, 0_u8..40, 0_u8..3, 0_u8..4, proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0_u8..2)
                    .prop_map(|(from, id, part, parts, bytes, full)| Step::Part { from, id, part, parts, bytes, full: full == 1 }),
                1 => (0_u8..4, 0_u8..40).prop_map(|(from, id)| Step::Taken(from, id)),
                1 => proptest::bool::ANY.prop_map(Step::Keep),
                1 => (0_u64..100_000).prop_map(Step::Pass),
                1 => (0_u8..4).prop_map(Step::Send),
                1 => (0_u8..4).prop_map(Step::Parted),
            ],
            0..200,
        ),
    ) {
        let mut desk = Desk::new();
        for step in steps {
            match step {
                Step::Part { from, id: name, part, parts, bytes, full } => {
                    let bytes = if full { vec![b'x'; 1_200] } else { bytes };
                    let part = MessagePart { id: id(name), sent: UnixMillis(u64::MAX), part, parts, bytes };
                    desk.chats.handle_part(desk.now, peer(from), part);
                }
                Step::Taken(from, name) => desk.chats.handle_taken(desk.now, peer(from), id(name)),
                Step::Keep(kept) => drop(desk.keeps(kept)),
                Step::Pass(ms) => {
                    desk.now += Duration::from_millis(ms);
                    desk.chats.handle_deadline(desk.now);
                    while let Some(due) = desk.chats.poll_due(desk.now) {
                        desk.chats.transmit(desk.now, due);
                    }
                }
                Step::Send(to) => drop(desk.sends(&[to])),
                Step::Parted(from) => desk.chats.handle_parted(peer(from)),
            }
        }
        for from in 0..4 {
            let mut ids: Vec<_> = desk.chats.entries().filter(|one| one.peer == peer(from) && one.state == State::Received).map(|one| one.id).collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), all, "none twice");
        }
        prop_assert!(desk.chats.entries().count() <= 2_000);
        let kept = desk.chats.save();
        let mut later = Desk::new();
        later.chats.restore(later.now, minicbor::decode(&kept).unwrap());
        prop_assert_eq!(later.chats.save(), kept);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Part {
        from: u8,
        id: u8,
        part: u8,
        parts: u8,
        bytes: Vec<u8>,
        full: bool,
    },
    Taken(u8, u8),
    Keep(bool),
    /// Milliseconds.
    Pass(u64),
    Send(u8),
    Parted(u8),
}

struct Desk {
    now: Instant,
    chats: Chats,
    drawn: u8,
}

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        let mut chats = Chats::new(now);
        chats.handle_clock(now, UnixMillis(1_700_000_000_000));
        Self { now, chats, drawn: 0 }
    }

    fn sends(&mut self, to: &[u8]) -> Result<Vec<u64>, ChatFull> {
        self.drawn = self.drawn.wrapping_add(1);
        let mut name = [self.drawn; 16];
        name[0] = 0xff;
        let to: Vec<_> = to.iter().map(|to| (peer(*to), name)).collect();
        self.chats.send(self.now, &to, &hello())
    }

    fn hears(&mut self, from: u8, name: u8, text: &str) -> Option<MessageId> {
        self.chats.handle_part(self.now, peer(from), part(id(name), text))
    }

    /// Writes what is to be written, when it may.
    fn keeps(&mut self, works: bool) -> Vec<(ClientId, MessageId)> {
        self.now += Duration::from_millis(300);
        match self.chats.poll_keep(self.now) {
            Some(_) => self.chats.handle_kept(self.now, works),
            None => Vec::new(),
        }
    }

    fn state(&self, number: u64) -> Option<State> {
        self.chats.entry(number).map(|entry| entry.state)
    }
}

fn hello() -> Text {
    Text::new("hello").unwrap()
}

fn part(id: MessageId, text: &str) -> MessagePart {
    MessagePart::split(id, UnixMillis(5), text).next().unwrap()
}

fn peer(number: u8) -> ClientId {
    ClientId::from_bytes([number; 16])
}

fn id(number: u8) -> MessageId {
    MessageId::from_bytes([number; 16])
}
