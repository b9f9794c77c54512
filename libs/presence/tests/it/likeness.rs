//! The scripts in Redis do what the rule in process does, whatever they are asked.

use domain::{Epoch, NatProfile, PairRecord, UnixMillis};
use presence::Presence;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::site::{HOUR, Site, client, gateway, held, record, tag};

const STEPS: u32 = 400;
const CLIENTS: u16 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_words_leave_the_same_seats_in_memory_and_in_redis() {
    for seed in 1..=8 {
        let (memory, site) = (Presence::memory(), Site::redis());
        let redis = site.presence().await;
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..STEPS {
            let word = Word::random(&mut random);
            assert_eq!(word.say(&memory).await, word.say(&redis).await, "seed {seed}, step {step}: {word:?}");
            let (here, there) = (memory.sessions(None, 10).await.unwrap(), redis.sessions(None, 10).await.unwrap());
            assert_eq!(here, there, "seed {seed}, step {step}: {word:?}");
        }
        site.flush().await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Up { client: u16, gateway: u8, session: u8, floor: u64 },
    Renew { client: u16, gateway: u8, session: u8, epoch: u64 },
    Down { client: u16, epoch: u64 },
    Report { client: u16, epoch: u64 },
    Find { client: u16 },
    Lease { holder: u64 },
    Release { holder: u64 },
    Remember { other: u16, trace: u64 },
    Recall { other: u16 },
    Sweep,
}

impl Word {
    /// Epochs are so few that they meet, and rise so that not everything is late.
    fn random(random: &mut StdRng) -> Self {
        let client = random.random_range(0..CLIENTS);
        let (gateway, session) = (random.random_range(0..2), random.random_range(0..3));
        let epoch = 1_000 + random.random_range(0..40) * random.random_range(1..8);
        let holder = random.random_range(0..2);
        match random.random_range(0..10) {
            0 => Self::Up { client, gateway, session, floor: 1_000 },
            1 | 2 => Self::Renew { client, gateway, session, epoch },
            3 => Self::Down { client, epoch },
            4 => Self::Report { client, epoch },
            5 => Self::Find { client },
            6 => Self::Lease { holder },
            7 => Self::Release { holder },
            8 if holder == 0 => Self::Remember { other: client + 1, trace: epoch },
            8 => Self::Recall { other: client + 1 },
            _ => Self::Sweep,
        }
    }

    /// What comes of it, as a text to compare.
    async fn say(self, presence: &Presence) -> String {
        match self {
            Self::Up { client: number, gateway: at, session, floor } => {
                let up = presence.up(client(number), gateway(at), tag(session), Epoch(floor), UnixMillis(floor), HOUR);
                format!("{:?}", up.await.unwrap())
            }
            Self::Renew { client: number, gateway: at, session, epoch } => {
                let held = held(number, Epoch(epoch), session);
                format!("{:?}", presence.renew(gateway(at), &[held], HOUR).await.unwrap())
            }
            Self::Down { client: number, epoch } => {
                format!("{:?}", presence.down(client(number), Epoch(epoch)).await.unwrap())
            }
            Self::Report { client: number, epoch } => {
                let profile = NatProfile { hops: u8::try_from(epoch % 256).unwrap(), ..NatProfile::BLOCKED };
                format!("{:?}", presence.report(client(number), Epoch(epoch), profile).await.unwrap())
            }
            Self::Find { client: number } => format!("{:?}", presence.find(&[client(number)]).await.unwrap()),
            Self::Lease { holder } => format!("{:?}", presence.lease("key", holder, HOUR).await.unwrap()),
            Self::Release { holder } => format!("{:?}", presence.release("key", holder).await.unwrap()),
            Self::Remember { other, trace } => {
                let record = PairRecord { trace, ..record(0, other, "") };
                format!("{:?}", presence.remember(&record, HOUR).await.unwrap())
            }
            Self::Recall { other } => format!("{:?}", presence.recall(client(0), client(other)).await.unwrap()),
            Self::Sweep => format!("{:?}", presence.sweep(10).await.unwrap()),
        }
    }
}
