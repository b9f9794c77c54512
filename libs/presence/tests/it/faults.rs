//! What the in-process back-end does on purpose, and that the callers' remedy (again!) is one.

use std::time::Duration;

use domain::{Epoch, UnixMillis};
use presence::{
    DEADLINE, Error, Presence, RESPITE, Renewal, Up,
    memory::{Faults, Memory},
};
use tokio::time::{Instant, advance};

use crate::site::{HOUR, client, gateway, held, seat, soon, tag, up};

#[tokio::test(start_paused = true)]
async fn an_interrupted_presence_fails_at_once_and_comes_back_as_it_was() {
    let memory = Memory::default();
    let presence = Presence::Memory(memory.clone());
    let came = up(&presence, 1, 1, 1, HOUR).await;

    memory.interrupt();
    assert!(matches!(presence.ping().await, Err(Error::Unavailable(_))));
    assert!(matches!(presence.find(&[client(1)]).await, Err(Error::Unavailable(_))));
    memory.restore();

    assert_eq!(seat(&presence, 1).await.unwrap().epoch, came.epoch);
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_times_out_whether_it_was_carried_out_or_not() {
    let presence = suffering(Faults { seed: 1, lose: 1.0, ..Faults::default() });
    let began = Instant::now();

    let lost = presence.find(&[client(1)]).await;

    assert!(matches!(lost, Err(Error::TimedOut)));
    assert_eq!(began.elapsed(), DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_slow_presence_is_waited_for_until_the_deadline() {
    let presence = suffering(Faults { seed: 1, delay: DEADLINE * 4, ..Faults::default() });
    let (mut answered, mut late) = (0, 0);
    for number in 0..100 {
        let began = Instant::now();
        match presence.up(client(number), gateway(1), tag(1), Epoch(1), UnixMillis(0), HOUR).await {
            Ok(_) => answered += 1,
            Err(Error::TimedOut) => late += 1,
            Err(error) => panic!("{error}"),
        }
        // The timer of tokio counts whole milliseconds.
        assert!(began.elapsed() <= DEADLINE + Duration::from_millis(2), "{:?}", began.elapsed());
    }
    assert!(answered > 0 && late > answered, "{answered} answered, {late} late");
}

#[tokio::test(start_paused = true)]
async fn logins_that_are_lost_and_repeated_end_as_one_session() {
    for seed in 0..200 {
        let presence = suffering(Faults { seed, lose: 0.4, repeat: 0.4, delay: Duration::from_millis(50) });
        let first = login(&presence, 1).await;

        let second = login(&presence, 2).await;

        assert!(second.epoch > first.epoch, "seed {seed}");
        assert_eq!(first.replaced, None, "seed {seed}");
        // When the answer that says so was lost, the older session still learns it by its renewal.
        assert!(second.replaced.is_none_or(|seat| seat.epoch == first.epoch), "seed {seed}: {second:?}");
        let sessions = [held(1, first.epoch, 1)];
        let renewed = soon(async {
            loop {
                if let Ok(renewed) = presence.renew(gateway(1), &sessions, HOUR).await {
                    return renewed;
                }
            }
        });
        assert_eq!(renewed.await, [Renewal::Replaced], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_of_the_sweeps_nobody_is_lost_for_a_while() {
    let presence = Presence::memory();
    assert_eq!(presence.sweep(9).await.unwrap(), []);
    let ttl = Duration::from_secs(30);
    let renewed = up(&presence, 1, 1, 1, ttl).await;
    let silent = up(&presence, 2, 1, 1, ttl).await;

    advance(ttl * 2).await;
    assert_eq!(presence.sweep(9).await.unwrap(), [], "presence itself may have been away");
    presence.renew(gateway(1), &[held(1, renewed.epoch, 1)], ttl).await.unwrap();

    let began = Instant::now();
    let lost = loop {
        advance(Duration::from_secs(2)).await;
        let lost = presence.sweep(9).await.unwrap();
        if !lost.is_empty() {
            break lost;
        }
    };
    assert_eq!(lost.iter().map(|lost| lost.epoch).collect::<Vec<_>>(), [silent.epoch]);
    assert_eq!(began.elapsed(), RESPITE);
}

#[tokio::test]
async fn another_url_is_no_presence() {
    for url in ["", "memory", "http://host", "redis//host", "redis://host?namespace=../x", "redis://"] {
        assert!(matches!(Presence::connect(url).await, Err(Error::Url)), "{url}");
    }
    assert!(Presence::connect("memory:").await.is_ok());
}

fn suffering(faults: Faults) -> Presence {
    Presence::Memory(Memory::new(faults))
}

/// Logs client 1 in, as often as it takes.
async fn login(presence: &Presence, session: u8) -> Up {
    soon(async {
        loop {
            let login = presence.up(client(1), gateway(session), tag(session), Epoch(1), UnixMillis(0), HOUR).await;
            if let Ok(up) = login {
                return up;
            }
        }
    })
    .await
}
