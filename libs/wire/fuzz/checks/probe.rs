//! STUN: a reflector never answers with more than it admits, its answers read, and no statement is believed without a seal.

use std::net::SocketAddr;

use domain::{Observation, SessionTag, UnixMillis};
use wire::probe::{
    Asked, Corner, LONGEST_DELAY, MAX_ANSWER_SIZE, MAX_MESSAGE, Mirror, ObservationKey, Observed, answer, framed,
    is_stun,
};

pub(crate) fn check(bytes: &[u8]) {
    let _ = is_stun(bytes);
    let _ = answer(bytes);
    if let Ok(Some(length)) = framed(bytes) {
        assert!((20..=MAX_MESSAGE).contains(&length));
    }

    let key = ObservationKey::new(&[9; 32]);
    let observation = Observation(bytes.to_vec());
    let _ = Observed::claimed(&observation);
    if let Ok(observed) = key.open(&observation, TAG, NOW) {
        assert_eq!(key.seal(&observed), observation);
    }

    let single = Mirror::single(SocketAddr::from(([198, 51, 100, 1], 443)), key.clone());
    let corners = [1, 2, 3, 4].map(|number| Some(SocketAddr::from(([198, 51, 100, number], 3478))));
    for mirror in [single, Mirror::new(corners, key)] {
        for source in
            [SocketAddr::from(([203, 0, 113, 9], 40_000)), SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 1))]
        {
            let asked = Asked { source, at: Corner::R1P, ttl: 57, now: NOW };
            let mut out = [0; MAX_ANSWER_SIZE];
            let Some(reflection) = mirror.reflect(&asked, bytes, &mut out) else { continue };
            assert_eq!(reflection.amplifies, reflection.length > bytes.len());
            assert!(reflection.delay.is_zero() || !reflection.amplifies && reflection.delay <= LONGEST_DELAY);
            assert!(answer(&out[..reflection.length]).is_ok());
            assert!(mirror.reflect_connected(&asked, bytes, &mut out).is_some());
        }
    }
}

const TAG: SessionTag = SessionTag([7; 16]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
