//! What stays silent at first is asked again.

use super::*;

#[test]
fn ipv6_that_carries_nothing_at_first_is_found_soon() {
    let mut lab = without_answers_over_ipv6(&[endpoint(Side::Alice).ip(), V6.parse().unwrap()]);
    lab.measure();
    assert!(!lab.profile().ipv6);
    lab.silent.clear();
    lab.measure();
    assert!(lab.profile().ipv6);
}

#[test]
fn udp_that_carries_nothing_at_first_is_found_soon() {
    let mut lab = Sole::new();
    lab.block_udp();
    lab.measure();
    assert!(!lab.profile().udp);
    lab.silent.clear();
    lab.measure();
    assert!(lab.profile().udp);
}

#[test]
fn nothing_is_asked_again_while_a_punch_is_under_way() {
    let mut lab = without_answers_over_ipv6(&[endpoint(Side::Alice).ip(), V6.parse().unwrap()]);
    let asks_again = |lab: &mut Sole| {
        (0..60).any(|_| {
            lab.reflect();
            lab.step(Duration::from_millis(50));
            lab.questions.iter().any(|(socket, ..)| *socket == SocketId::SPARE)
        })
    };
    for _ in 0..20 {
        lab.reflect();
        lab.step(Duration::from_millis(50));
    }
    lab.prepare(7, 0);
    assert!(!asks_again(&mut lab));
    lab.core.handle_frame(lab.now, ServerFrame::PunchOff(punch(7)));
    assert!(asks_again(&mut lab));
}

#[test]
fn what_never_answers_is_asked_a_few_times_and_not_without_an_address_for_it() {
    for (address, most) in [(V6, 4), (NEAR6, 1)] {
        let mut lab = without_answers_over_ipv6(&[endpoint(Side::Alice).ip(), address.parse().unwrap()]);
        let mut asked = 0;
        for _ in 0..(20 * 60 * 20) {
            asked += lab.questions.iter().filter(|(_, to, ..)| lab.silent.contains(to)).count();
            lab.reflect();
            lab.step(Duration::from_millis(50));
        }
        assert_eq!(asked, most * 3, "{most} discoveries of three tries");
    }
}

fn without_answers_over_ipv6(addresses: &[IpAddr]) -> Sole {
    let mut lab = Sole::at(addresses.to_vec(), &DUAL);
    lab.silent.insert(REFLECTOR6.parse().unwrap());
    lab
}

const REFLECTOR6: &str = "[2001:db8::10]:3478";
const DUAL: [&str; 4] = [REFLECTORS[0], REFLECTORS[1], REFLECTORS[2], REFLECTOR6];
const V6: &str = "2001:db8::5";
const NEAR6: &str = "fd00::5";
