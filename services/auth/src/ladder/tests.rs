use std::collections::BinaryHeap;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn what_people_do_is_free() {
    let (mut ladder, start) = ladder();
    for nth in 0..10 {
        assert_eq!(ladder.registration(start, address(1), None, None), Verdict::Admit, "{nth}");
    }
    let next = start + Duration::from_secs(6);
    assert!(matches!(ladder.registration(start, address(1), None, None), Verdict::Work { .. }));
    assert_eq!(ladder.registration(next, address(1), None, None), Verdict::Admit, "ten a minute");
}

#[test]
fn work_doubles_with_the_rate_up_to_a_bound_and_then_an_address_waits() {
    let (mut ladder, start) = ladder();
    let mut asked = Vec::new();
    let waits = loop {
        match ladder.registration(start, address(1), None, None) {
            Verdict::Admit => {}
            Verdict::Work { bits } => {
                asked.push(bits);
                assert_eq!(ladder.registration(start, address(1), Some(bits), None), Verdict::Admit);
            }
            Verdict::Wait(wait) => break wait,
        }
    };
    assert!(asked.is_sorted(), "{asked:?}");
    assert_eq!((asked.first(), asked.last(), asked.len()), (Some(&19), Some(&20), 20));
    assert_eq!(waits, Duration::from_secs(6));
    assert!(matches!(ladder.registration(start, address(2), None, None), Verdict::Admit), "a neighbour is free");
}

#[test]
fn too_little_work_is_none() {
    let (mut ladder, start) = ladder();
    for _ in 0..10 {
        ladder.registration(start, address(1), None, None);
    }
    assert!(matches!(ladder.registration(start, address(1), Some(18), None), Verdict::Work { .. }));
    assert_eq!(ladder.registration(start, address(1), Some(19), None), Verdict::Admit);
}

#[test]
fn neighbours_are_asked_for_work_together_and_never_made_to_wait() {
    let (mut ladder, start) = ladder();
    let mut bits = Vec::new();
    for number in 0..250 {
        match ladder.registration(start, address(number), None, None) {
            Verdict::Admit => assert!(number < 60, "{number}"),
            Verdict::Work { bits: asked } => {
                bits.push(asked);
                assert_eq!(ladder.registration(start, address(number), Some(asked), None), Verdict::Admit);
            }
            Verdict::Wait(wait) => panic!("{wait:?}"),
        }
    }
    assert_eq!((bits.len(), bits.iter().max()), (190, Some(&21)));
    let elsewhere = "203.0.113.1".parse().unwrap();
    assert_eq!(ladder.registration(start, elsewhere, None, None), Verdict::Admit);
}

#[test]
fn prefixes_of_ipv6_are_counted_in_three_widths() {
    let (mut ladder, start) = ladder();
    let of = |site: u16, nearby: u8, subnet: u8| -> AddressPrefix {
        format!("2001:db8:{site:x}:{nearby:02x}{subnet:02x}::/64").parse().unwrap()
    };
    let free = |ladder: &mut Ladder, from: &dyn Fn(u8) -> AddressPrefix| {
        (0..=255).take_while(|&number| ladder.registration(start, from(number), None, None) == Verdict::Admit).count()
    };
    assert_eq!(free(&mut ladder, &|_| of(1, 0, 0)), 10, "one /64");
    assert_eq!(free(&mut ladder, &|number| of(2, 0, number)), 60, "one /56");
    assert_eq!(free(&mut ladder, &|number| of(3, number, 0)), 120, "one /48");
}

#[test]
fn when_all_together_are_too_many_everybody_works() {
    let (mut ladder, start) = ladder();
    assert!(!ladder.is_under_attack(start));
    let far = |number: u32| AddressPrefix::of(std::net::Ipv4Addr::from_bits(0x0b00_0000 + (number << 8)).into());
    // As fast as they are served at all: the bucket leaks meanwhile.
    let admitted = (0_u32..700)
        .take_while(|&number| {
            let now = start + Duration::from_millis((4 * number).into());
            ladder.registration(now, far(number), None, None) == Verdict::Admit
        })
        .count();
    assert!((600..650).contains(&admitted), "{admitted}");
    let soon = start + Duration::from_millis(4 * admitted as u64);
    assert!(ladder.is_under_attack(soon));
    assert!(matches!(ladder.registration(soon, far(9_999), None, None), Verdict::Work { bits: 19 }));
    assert!(!ladder.is_under_attack(soon + MINUTE));
}

#[test]
fn more_than_can_be_served_wait_whatever_they_do() {
    let start = Instant::now();
    let two = NonZeroU32::new(2).unwrap();
    let mut ladder = Ladder::new(start, LadderConfig::default(), two, two);
    let far = |number: u32| AddressPrefix::of(std::net::Ipv4Addr::from_bits(0x0b00_0000 + (number << 8)).into());
    assert_eq!(ladder.registration(start, far(1), Some(22), None), Verdict::Admit);
    assert_eq!(ladder.registration(start, far(2), Some(22), None), Verdict::Admit);
    assert_eq!(ladder.registration(start, far(3), Some(22), None), Verdict::Wait(LEAST_WAIT));
    assert_eq!(ladder.registration(start + Duration::from_secs(1), far(3), Some(22), None), Verdict::Admit);
}

#[test]
fn what_an_operator_holds_against_a_prefix_counts_for_new_keys_there() {
    let (mut ladder, start) = ladder();
    let prefix: AddressPrefix = "198.51.100.0/24".parse().unwrap();
    let challenge = Some((prefix, Degree::Challenge));
    assert!(matches!(ladder.registration(start, address(1), None, challenge), Verdict::Work { bits: 19 }));
    assert_eq!(ladder.registration(start, address(1), Some(19), challenge), Verdict::Admit);
    let slow = Some((prefix, Degree::Slow));
    assert_eq!(ladder.registration(start, address(1), None, slow), Verdict::Admit);
    assert_eq!(ladder.registration(start, address(2), None, slow), Verdict::Wait(Duration::from_secs(10)));
    assert_eq!(ladder.registration(start + Duration::from_secs(10), address(2), None, slow), Verdict::Admit);
}

#[test]
fn a_key_logs_in_so_often_and_a_slowed_one_once_a_minute() {
    let (mut ladder, start) = ladder();
    let client = |number| ClientId::from_bytes([number; 16]);
    for _ in 0..60 {
        assert_eq!(ladder.login(start, client(1), None, None), Verdict::Admit);
    }
    assert_eq!(ladder.login(start, client(1), None, None), Verdict::Wait(Duration::from_secs(1)));
    assert_eq!(ladder.login(start, client(2), Some(Degree::Slow), None), Verdict::Admit);
    assert_eq!(ladder.login(start, client(2), Some(Degree::Slow), None), Verdict::Wait(MINUTE));
    assert_eq!(ladder.login(start + MINUTE, client(2), Some(Degree::Slow), None), Verdict::Admit);
    assert_eq!(ladder.login(start, client(3), Some(Degree::Challenge), None), Verdict::Work { bits: 22 });
    assert_eq!(ladder.login(start, client(3), Some(Degree::Challenge), Some(22)), Verdict::Admit);
}

#[test]
fn puzzles_are_not_given_out_without_end() {
    let (mut ladder, start) = ladder();
    for _ in 0..10 {
        ladder.registration(start, address(1), None, None);
    }
    let asked = (0..100)
        .take_while(|_| matches!(ladder.registration(start, address(1), None, None), Verdict::Work { .. }))
        .count();
    assert_eq!(asked, 30);
    assert!(matches!(ladder.registration(start, address(1), None, None), Verdict::Wait(_)));
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let (mut ladder, start) = ladder();
    let far = |number: u32| AddressPrefix::of(std::net::Ipv4Addr::from_bits(number << 8).into());
    let most = u32::try_from(MOST).unwrap();
    for number in 0..most + 1_000 {
        ladder.registration(start, far(number), Some(22), None);
    }
    assert!(ladder.remembered() <= 2 * MOST, "{}", ladder.remembered());
    ladder.forget(start + 20 * MINUTE);
    assert_eq!(ladder.remembered(), 0);
    assert!(!ladder.is_under_attack(start + 20 * MINUTE));
}

/// One machine of 250 behind a /24 makes keys as fast as it can, on eight cores, for ten minutes; the others go about their
/// business. After a minute an operator has whoever is new there do work, for five minutes. Seeded, on a virtual clock.
#[test]
fn one_hostile_machine_among_250_neighbours_gets_nowhere_and_nobody_else_notices() {
    let figures = abuse_run(7);
    println!("{figures:#?}");
    assert!(figures.hostile_tries > 50_000, "{figures:?}");
    assert!(figures.stopped() >= 0.99 && figures.stopped_after_a_minute() >= 0.99, "{figures:?}");
    assert_eq!(figures.honest_logins_refused, 0);
    assert!(figures.honest_logins > 4_000 && figures.honest_registrations == 3 * 249, "{figures:?}");
    assert!(figures.honest_delay_p99 <= Duration::from_secs(5), "{figures:?}");
    assert!(figures.honest_delay_most <= Duration::from_secs(60), "{figures:?}");
    assert_eq!(figures.left_after_expiry, 0);
}

#[derive(Debug)]
struct Figures {
    hostile_tries: u32,
    hostile_admitted: u32,
    hostile_tries_after_a_minute: u32,
    hostile_admitted_after_a_minute: u32,
    honest_logins: u32,
    honest_logins_refused: u32,
    honest_registrations: u32,
    honest_delay_p99: Duration,
    honest_delay_most: Duration,
    /// Prefixes and keys that anything is held against.
    left_after_expiry: usize,
}

impl Figures {
    fn stopped(&self) -> f64 {
        1.0 - f64::from(self.hostile_admitted) / f64::from(self.hostile_tries)
    }

    fn stopped_after_a_minute(&self) -> f64 {
        1.0 - f64::from(self.hostile_admitted_after_a_minute) / f64::from(self.hostile_tries_after_a_minute)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A machine wants a new key registered, since when, with so many bits of work done.
    Register {
        host: u8,
        since_ms: u64,
        worked: Option<u8>,
    },
    Login {
        host: u8,
    },
}

fn abuse_run(seed: u64) -> Figures {
    let (mut ladder, start) = ladder();
    let mut random = Random(seed);
    let mut events = BinaryHeap::new();
    let mut order = 0_u64;
    // The earliest is the greatest; what comes at the same time keeps its order.
    let mut at = |events: &mut BinaryHeap<_>, ms: u64, event: Event| {
        order += 1;
        events.push((std::cmp::Reverse(ms), std::cmp::Reverse(order), event));
    };
    const HOSTILE: u8 = 0;
    const END_MS: u64 = 600_000;
    let blocked_ms = 60_000..360_000_u64;
    let prefix: AddressPrefix = "198.51.100.0/24".parse().unwrap();
    for ms in (0..END_MS).step_by(10) {
        at(&mut events, ms, Event::Register { host: HOSTILE, since_ms: ms, worked: None });
    }
    for host in 1..250 {
        for _ in 0..3 {
            let ms = random.below(END_MS);
            at(&mut events, ms, Event::Register { host, since_ms: ms, worked: None });
        }
        for _ in 0..20 {
            at(&mut events, random.below(END_MS), Event::Login { host });
        }
    }
    // When each of the hostile machine's cores is done.
    let mut cores = [0_u64; 8];
    let (mut tries, mut admitted, mut late_tries, mut late_admitted) = (0, 0, 0, 0);
    let (mut logins, mut refused, mut delays) = (0, 0, Vec::new());
    while let Some((std::cmp::Reverse(ms), _, event)) = events.pop() {
        let now = start + Duration::from_millis(ms);
        match event {
            Event::Login { host } => {
                logins += 1;
                let client = ClientId::from_bytes([host; 16]);
                refused += u32::from(ladder.login(now, client, None, None) != Verdict::Admit);
            }
            Event::Register { host, since_ms, worked } => {
                let held = blocked_ms.contains(&ms).then_some((prefix, Degree::Challenge));
                let verdict = ladder.registration(now, address(host.into()), worked, held);
                if host == HOSTILE {
                    let late = ms >= 60_000;
                    if worked.is_none() {
                        tries += 1;
                        late_tries += u32::from(late);
                    }
                    if verdict == Verdict::Admit {
                        admitted += 1;
                        late_admitted += u32::from(late);
                    } else if let Verdict::Work { bits } = verdict
                        && let Some(core) = cores.iter_mut().find(|free| **free <= ms)
                    {
                        *core = ms + random.work_ms(bits, 5_000);
                        at(&mut events, *core, Event::Register { host, since_ms, worked: Some(bits) });
                    }
                    continue;
                }
                match verdict {
                    Verdict::Admit => delays.push(Duration::from_millis(ms - since_ms)),
                    Verdict::Work { bits } => {
                        let hashes_per_ms = 1_000 + random.below(3_000);
                        let done = ms + random.work_ms(bits, hashes_per_ms);
                        at(&mut events, done, Event::Register { host, since_ms, worked: Some(bits) });
                    }
                    Verdict::Wait(wait) => {
                        let again = ms + u64::try_from(wait.as_millis()).unwrap();
                        at(&mut events, again, Event::Register { host, since_ms, worked: None });
                    }
                }
            }
        }
        if ms % 10_000 == 0 {
            ladder.forget(now);
        }
    }
    delays.sort_unstable();
    // A quarter of an hour after the last try.
    ladder.forget(start + Duration::from_millis(END_MS) + 17 * MINUTE);
    Figures {
        hostile_tries: tries,
        hostile_admitted: admitted,
        hostile_tries_after_a_minute: late_tries,
        hostile_admitted_after_a_minute: late_admitted,
        honest_logins: logins,
        honest_logins_refused: refused,
        honest_registrations: u32::try_from(delays.len()).unwrap(),
        honest_delay_p99: delays[delays.len() * 99 / 100],
        honest_delay_most: delays[delays.len() - 1],
        left_after_expiry: ladder.remembered(),
    }
}

/// xorshift64*: the same numbers for the same seed, for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// How long a puzzle takes: tries are independent, so that the time has no memory.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a simulation"
    )]
    fn work_ms(&mut self, bits: u8, hashes_per_ms: u64) -> u64 {
        let luck = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let hashes = -(1.0 - luck).ln() * f64::from(1_u32 << bits);
        (hashes / hashes_per_ms as f64) as u64 + 1
    }
}

fn ladder() -> (Ladder, Instant) {
    let start = Instant::now();
    let config = crate::Config::default();
    (Ladder::new(start, config.ladder, config.registrations_per_source, config.registrations), start)
}

fn address(number: u32) -> AddressPrefix {
    AddressPrefix::of(std::net::Ipv4Addr::from_bits(0xc633_6400 + number).into())
}
