use super::{choice::HYSTERESIS, *};
use crate::sim::origin;

const RTT: Duration = Duration::from_millis(40);

#[test]
fn data_starts_on_the_relay_and_moves_to_the_direct_path() {
    let mut lab = Lab::new();
    assert_eq!(lab.path.sends(), Sends::default());
    lab.path.handle_relay_up(lab.now);
    assert_eq!(lab.sends(), (Some(Route::Relay), None));
    lab.run(Duration::from_secs(1));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(20));
    assert_eq!(lab.sends(), (Some(Route::Direct(endpoint(1))), None));
    assert_eq!(lab.events(), [Event::Switched(Some(Route::Relay)), Event::Switched(Some(direct(1)))]);
}

#[test]
fn a_slower_direct_path_is_kept_warm_and_taken_once_it_is_better() {
    let mut lab = Lab::new();
    lab.path.handle_relay_up(lab.now);
    lab.run(Duration::from_secs(1));
    lab.set_rtt(direct(1), Duration::from_millis(200));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(200));
    lab.run(Duration::from_secs(1_000));
    assert_eq!(lab.path.current(), Some(Route::Relay));
    let probed = lab.probed(direct(1));
    assert!((30..=60).contains(&probed), "as often as NATs need it: {probed}");
    lab.set_rtt(direct(1), Duration::ZERO);
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.path.current(), Some(direct(1)));
}

#[test]
fn a_direct_path_whose_first_answers_were_late_is_taken_soon() {
    let mut lab = Lab::new();
    lab.path.handle_relay_up(lab.now);
    lab.run(Duration::from_secs(1));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(500));
    assert_eq!(lab.path.current(), Some(Route::Relay));
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.path.current(), Some(direct(1)));
}

#[test]
fn a_connection_that_ended_is_left_at_once() {
    let mut lab = Lab::direct_after_relay();
    lab.path.handle_closed(lab.now, endpoint(1));
    assert_eq!(lab.path.current(), Some(Route::Relay));
    assert!(lab.events().contains(&Event::PunchWanted) && !lab.path.knows(endpoint(1)));

    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(31));
    lab.path.handle_relay_down(lab.now);
    lab.path.handle_closed(lab.now, endpoint(2));
    assert_eq!(lab.path.current(), Some(direct(1)), "another one is no matter");
    lab.path.handle_closed(lab.now, endpoint(1));
    assert_eq!(lab.path.current(), None);
    assert!(lab.events().contains(&Event::RelayWanted));
}

#[test]
fn the_relay_is_left_half_a_minute_after_the_switch() {
    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(29));
    assert!(!lab.events().contains(&Event::RelayUnneeded));
    lab.run(Duration::from_secs(2));
    assert!(lab.events().contains(&Event::RelayUnneeded));
    assert!(lab.probed(Route::Relay) <= 20, "{}", lab.probed(Route::Relay));
}

#[test]
fn the_relay_is_kept_while_the_peer_sends_over_it() {
    let mut lab = Lab::direct_after_relay();
    for _ in 0..60 {
        lab.path.handle_received(lab.now, Route::Relay);
        lab.run(Duration::from_secs(1));
    }
    assert!(!lab.events().contains(&Event::RelayUnneeded));
    assert!(lab.probed(Route::Relay) <= 20, "{}", lab.probed(Route::Relay));
    lab.run(Duration::from_secs(31));
    assert!(lab.events().contains(&Event::RelayUnneeded));
}

#[test]
fn a_relay_that_comes_while_the_direct_path_is_well_is_left_again() {
    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(40));
    lab.events();
    lab.path.handle_relay_up(lab.now);
    lab.run(Duration::from_secs(31));
    assert!(lab.events().contains(&Event::RelayUnneeded));
}

#[test]
fn a_direct_path_that_dies_under_traffic_is_doubled_and_then_left() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.events();
    lab.kill(direct(1));
    let died = lab.now;
    while lab.path.sends().also.is_none() {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    assert!(lab.now - died <= Duration::from_millis(6_700), "{:?}", lab.now - died);
    assert!(lab.events().contains(&Event::PunchWanted));
    let doubled = lab.now;
    while lab.path.current() != Some(Route::Relay) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    assert!((Duration::from_millis(2_900)..=Duration::from_millis(3_200)).contains(&(lab.now - doubled)));
}

#[test]
fn a_direct_path_that_answers_again_in_time_stays() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.kill(direct(1));
    while lab.path.sends().also.is_none() {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    lab.revive(direct(1));
    lab.run_with_traffic(Duration::from_secs(5));
    assert_eq!(lab.sends(), (Some(direct(1)), None));
}

#[test]
fn a_relay_that_was_left_is_fetched_before_it_is_needed() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(40));
    lab.events();
    lab.kill(direct(1));
    let died = lab.now;
    while !lab.events().contains(&Event::RelayWanted) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    assert!(lab.now - died < Duration::from_secs(4));
    lab.path.handle_relay_up(lab.now);
    while lab.path.current() != Some(Route::Relay) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    assert!(lab.now - died < Duration::from_secs(10));
}

#[test]
fn a_relay_that_is_dead_too_is_left_at_once() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.kill(direct(1));
    lab.kill(Route::Relay);
    while lab.path.current() != Some(Route::Relay) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    let left = lab.now;
    lab.run_with_traffic(Duration::from_millis(2_500));
    lab.revive(direct(1));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(1));
    while lab.path.current() != Some(direct(1)) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    let back = lab.now - left;
    assert!(back < HYSTERESIS, "{back:?}");
}

#[test]
fn two_switches_are_at_least_five_seconds_apart() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.kill(direct(1));
    while lab.path.current() != Some(Route::Relay) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    let left = lab.now;
    lab.revive(direct(1));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(1));
    assert_eq!(lab.path.current(), Some(Route::Relay));
    while lab.path.current() != Some(direct(1)) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    let back = lab.now - left;
    assert!((HYSTERESIS..HYSTERESIS + Duration::from_millis(300)).contains(&back), "{back:?}");
}

#[test]
fn an_idle_path_costs_one_probe_in_25_seconds() {
    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(40));
    let before = lab.probed(direct(1));
    lab.run(Duration::from_secs(250));
    assert!((9..=12).contains(&(lab.probed(direct(1)) - before)), "{}", lab.probed(direct(1)) - before);
}

#[test]
fn a_dead_peer_is_found_within_fifteen_seconds_of_watching() {
    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(40));
    lab.events();
    lab.kill(direct(1));
    lab.kill(Route::Relay);
    let lost = lab.now;
    lab.path.handle_watch(lab.now);
    while !lab.path.is_silent() {
        lab.run(Duration::from_millis(100));
    }
    assert!(lab.now - lost <= Duration::from_secs(15));
    assert_eq!(lab.path.current(), Some(direct(1)), "the tunnel stays");
    lab.revive(direct(1));
    lab.run(Duration::from_secs(10));
    assert!(lab.events().contains(&Event::Alive));
}

#[test]
fn a_watched_peer_that_lives_stays_where_it_is() {
    let mut lab = Lab::direct_after_relay();
    lab.run(Duration::from_secs(40));
    lab.events();
    lab.path.handle_watch(lab.now);
    lab.run(Duration::from_secs(600));
    assert_eq!(lab.path.current(), Some(direct(1)));
    assert_eq!(lab.events(), []);
}

#[test]
fn a_stored_endpoint_is_probed_and_used_when_it_answers() {
    let mut lab = Lab::new();
    lab.path.handle_hint(lab.now, endpoint(1));
    assert_eq!(lab.path.current(), None);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.path.current(), Some(direct(1)));
}

#[test]
fn a_hint_that_never_answers_is_forgotten() {
    let mut lab = Lab::new();
    lab.kill(direct(1));
    lab.path.handle_hint(lab.now, endpoint(1));
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.path.poll_timeout(lab.now), None);
    assert!(lab.probed(direct(1)) <= 7);
}

#[test]
fn a_peer_that_roams_is_followed() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.kill(direct(1));
    lab.path.handle_received(lab.now, direct(2));
    let roamed = lab.now;
    while lab.path.current() != Some(direct(2)) {
        lab.run_with_traffic(Duration::from_millis(50));
    }
    assert!(lab.now - roamed < Duration::from_secs(6), "{:?}", lab.now - roamed);
}

#[test]
fn endpoints_named_by_a_peer_are_bounded() {
    let mut lab = Lab::direct_after_relay();
    for number in 0..1_000 {
        lab.path.handle_received(lab.now, direct(10 + number));
        lab.path.handle_hint(lab.now, endpoint(2_000 + number));
    }
    assert!(lab.path.directs.len() <= MAX_DIRECTS);
    assert_eq!(lab.path.current(), Some(direct(1)));
    assert!(std::iter::from_fn(|| lab.path.poll_probe()).count() <= MAX_PENDING * (MAX_DIRECTS + 1));
}

#[test]
fn three_answers_prove_a_path_only_within_a_second() {
    let mut lab = Lab::new();
    lab.path.handle_hint(lab.now, endpoint(1));
    for _ in 0..4 {
        let probe = std::iter::from_fn(|| lab.path.poll_probe()).last().unwrap();
        lab.path.handle_answer(lab.now, probe.route, probe.nonce);
        assert_eq!(lab.path.current(), None);
        lab.now += Duration::from_millis(600);
        lab.path.handle_timeout(lab.now);
    }
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.path.current(), Some(direct(1)));
}

#[test]
fn ipv6_and_the_lan_may_be_ten_milliseconds_slower_than_ipv4() {
    let ms = Duration::from_millis;
    for (other, slower, wins) in [
        ("[2001:db8::7]:1001", 9, true),
        ("[2001:db8::7]:1001", 11, false),
        ("192.168.1.7:1001", 9, true),
        ("192.168.1.7:1001", 11, false),
    ] {
        let other: SocketAddr = other.parse().unwrap();
        for other_first in [true, false] {
            let mut lab = Lab::new();
            lab.set_rtt(Route::Direct(other), RTT + ms(slower));
            let mut ways = [(endpoint(1), RTT), (other, RTT + ms(slower))];
            if other_first {
                ways.reverse();
            }
            for (endpoint, rtt) in ways {
                lab.path.handle_direct(lab.now, endpoint, rtt);
                lab.run(ms(50));
            }
            // What is used already is left only for a gain.
            let expected = if wins || other_first { other } else { endpoint(1) };
            assert_eq!(lab.path.current(), Some(Route::Direct(expected)), "{other} {slower} {other_first}");
        }
    }
}

#[test]
fn a_second_direct_path_is_kept_for_a_minute() {
    let mut lab = Lab::direct_after_relay();
    lab.path.handle_direct(lab.now, endpoint(2), RTT);
    lab.run(Duration::from_secs(55));
    assert!(lab.path.knows(endpoint(2)));
    lab.run(Duration::from_secs(6));
    assert!(!lab.path.knows(endpoint(2)) && lab.path.knows(endpoint(1)));
}

#[test]
fn a_second_direct_path_takes_over_from_one_that_died() {
    let mut lab = Lab::direct_after_relay();
    lab.path.handle_direct(lab.now, endpoint(2), RTT);
    lab.run_with_traffic(Duration::from_secs(3));
    lab.kill(direct(1));
    let died = lab.now;
    while lab.path.current() != Some(direct(2)) {
        lab.run_with_traffic(Duration::from_millis(100));
    }
    assert!(lab.now - died < Duration::from_secs(4), "{:?}", lab.now - died);
}

#[test]
fn a_measured_lifetime_sets_the_keepalive() {
    for (lifetime, least, most) in [(185, 104, 110), (125, 94, 100), (65, 46, 52), (20, 12, 16)] {
        let mut lab = Lab::direct_after_relay();
        lab.path.handle_lifetime(Some(Duration::from_secs(lifetime)));
        lab.run(Duration::from_secs(300));
        let before = lab.probed(direct(1));
        lab.run(Duration::from_secs(3_600));
        let probes = u64::try_from(lab.probed(direct(1)) - before).unwrap();
        assert!((3_600 / (most + 1)..=3_600 / least + 1).contains(&probes), "{lifetime}: {probes}");
    }
}

#[test]
fn a_peer_that_moved_is_sent_to_over_the_relay_too_until_the_path_answers() {
    let mut lab = Lab::direct_after_relay();
    lab.run_with_traffic(Duration::from_secs(5));
    lab.path.handle_moved(lab.now, Route::Relay);
    assert_eq!(lab.sends(), (Some(direct(1)), Some(Route::Relay)));
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.sends(), (Some(direct(1)), None));

    lab.kill(direct(1));
    lab.path.handle_moved(lab.now, Route::Relay);
    assert_eq!(lab.sends(), (Some(direct(1)), Some(Route::Relay)));
    lab.run_with_traffic(Duration::from_millis(3_100));
    assert_eq!(lab.sends(), (Some(Route::Relay), None));
}

#[test]
fn a_client_that_moved_goes_to_the_relay_at_once_and_wants_a_punch() {
    let mut lab = Lab::direct_after_relay();
    lab.events();
    lab.kill(direct(1));
    lab.path.handle_network_change(lab.now);
    assert_eq!(lab.sends(), (Some(Route::Relay), None));
    let events = lab.events();
    assert!(events.contains(&Event::PunchWanted) && !events.contains(&Event::Silent));
    lab.run(Duration::from_millis(500));
    lab.path.handle_direct(lab.now, endpoint(2), RTT);
    assert_eq!(lab.path.current(), Some(direct(2)), "moving is no flap");
}

#[test]
fn the_first_packets_on_a_faster_path_wait_for_the_last_ones_on_the_relay() {
    let mut lab = Lab::new();
    lab.set_rtt(Route::Relay, Duration::from_millis(80));
    lab.path.handle_relay_up(lab.now);
    lab.run(Duration::from_secs(1));
    lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(20));
    assert_eq!(lab.path.holds(lab.now), Some(lab.now + Duration::from_millis(30)));
    assert_eq!(lab.path.holds(lab.now + Duration::from_millis(30)), None);
    assert_eq!(Lab::direct_after_relay().path.holds(lab.now), None);
}

/// A peer that answers on every route that lives.
struct Lab {
    path: Path,
    now: Instant,
    dead: Vec<Route>,
    rtts: Vec<(Route, Duration)>,
    answers: VecDeque<(Instant, Probe)>,
    probed: Vec<Route>,
}

impl Lab {
    fn new() -> Self {
        Self {
            path: Path::new([3; 32]),
            now: origin(),
            dead: vec![],
            rtts: vec![],
            answers: VecDeque::new(),
            probed: vec![],
        }
    }

    fn direct_after_relay() -> Self {
        let mut lab = Self::new();
        lab.path.handle_relay_up(lab.now);
        lab.run(Duration::from_secs(1));
        lab.path.handle_direct(lab.now, endpoint(1), RTT);
        assert_eq!(lab.path.current(), Some(direct(1)));
        lab
    }

    fn sends(&self) -> (Option<Route>, Option<Route>) {
        (self.path.sends().first, self.path.sends().also)
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            while let Some(probe) = self.path.poll_probe() {
                self.probed.push(probe.route);
                if !self.dead.contains(&probe.route) {
                    let rtt = self.rtts.iter().rev().find(|(route, _)| *route == probe.route).map_or(RTT, |r| r.1);
                    self.answers.push_back((self.now + rtt, probe));
                }
            }
            self.answers.make_contiguous().sort_by_key(|(at, _)| *at);
            let answer = self.answers.front().map(|(at, _)| *at);
            let due = self.path.poll_timeout(self.now);
            let Some(next) = [answer, due].into_iter().flatten().min().filter(|&next| next <= end) else { break };
            assert!(next >= self.now - Duration::from_secs(10));
            self.now = self.now.max(next);
            if answer == Some(next) {
                let (_, probe) = self.answers.pop_front().unwrap();
                self.path.handle_answer(self.now, probe.route, probe.nonce);
            } else {
                self.path.handle_timeout(self.now);
                assert!(self.path.poll_timeout(self.now).is_none_or(|due| due > self.now), "a busy loop");
            }
        }
        self.now = end;
    }

    fn run_with_traffic(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.path.handle_sent(self.now);
            self.run(Duration::from_millis(50).min(end - self.now));
        }
    }

    fn kill(&mut self, route: Route) {
        self.dead.push(route);
    }

    fn revive(&mut self, route: Route) {
        self.dead.retain(|dead| *dead != route);
    }

    fn set_rtt(&mut self, route: Route, rtt: Duration) {
        self.rtts.push((route, rtt));
    }

    fn probed(&self, route: Route) -> usize {
        self.probed.iter().filter(|probed| **probed == route).count()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.path.poll_event()).collect()
    }
}

fn endpoint(number: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], 1_000 + number))
}

fn direct(number: u16) -> Route {
    Route::Direct(endpoint(number))
}
