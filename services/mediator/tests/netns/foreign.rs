//! Other people's traffic: what makes prediction hard.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::site::Host;

/// A machine that opens a new flow again and again, at random moments, until this is dropped.
#[derive(Debug)]
pub(crate) struct Foreign {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Foreign {
    /// Opens so many flows a second on average.
    pub(crate) fn start(host: &Host, flows_per_second: u32) -> Self {
        let socket = host.namespace.enter(|| UdpSocket::bind((host.address, 0)).unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let thread = std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(flows_per_second.into());
            let mut next = Instant::now();
            // A destination is a flow.
            for (host, port) in (1..255).cycle().zip((1..=u16::MAX).cycle()) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let _ = socket.send_to(b"foreign", (Ipv4Addr::from_bits(NOWHERE.to_bits() + host), port));
                // The gaps of a Poisson process.
                let gap = -random.random_range(f64::EPSILON..1.0).ln() / f64::from(flows_per_second);
                next += Duration::from_secs_f64(gap);
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Where it all goes: 192.0.2.0/24, which the core swallows without a word.
pub(crate) const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
