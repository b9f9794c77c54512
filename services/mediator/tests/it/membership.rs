//! A ban holds between machines that no server can tell of it.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
};

const NETWORK: &str = "friday games";

#[test]
fn a_ban_holds_between_two_machines_that_reach_no_server() {
    let deployment = Deployment::embedded();
    let mut gate = Gate::to(deployment.server());
    let anna = Device::start(deployment.server());
    let (mut bert, carl) = (Device::start(&gate.server), Device::start(&gate.server));
    anna.create(NETWORK, "correct horse").ok();
    bert.join(NETWORK, "correct horse").ok();
    carl.join(NETWORK, "correct horse").ok();
    let [anna_at, bert_at, carl_at] = [&anna, &bert, &carl].map(Device::address4);
    for (from, to) in [(&anna, &bert_at), (&bert, &carl_at), (&carl, &bert_at), (&bert, &anna_at)] {
        wait(from, to, "direct");
        ping(from, to, "1");
    }

    gate.close();
    until(|| bert.status()["control"] != "connected" && carl.status()["control"] != "connected");
    ping(&carl, &bert_at, "1");
    // Only Anna is told by the server; Carl is told by nobody, and goes on trying.
    anna.run(&["ban", &carl.id(), NETWORK]).ok();
    until(|| peers(&bert) == [anna_at.as_str()]);
    assert_eq!(carl.run(&["ping", &bert_at, "--count", "2", "--interval", "100ms"]).status, 1, "no packet is answered");
    ping(&bert, &anna_at, "2");
    ping(&anna, &bert_at, "2");

    bert.kill();
    bert.resume();
    assert_eq!(peers(&bert), [anna_at.as_str()]);
    wait(&bert, &anna_at, "any");
    ping(&bert, &anna_at, "2");
    assert_eq!(carl.run(&["ping", &bert_at, "--count", "2", "--interval", "100ms"]).status, 1, "no packet is answered");
}

fn peers(device: &Device) -> Vec<String> {
    let peers = device.run(&["peers"]).ok();
    let peers = peers.as_array().unwrap().iter();
    peers.map(|peer| peer["address4"].as_str().unwrap().to_owned()).collect()
}

/// Waits for what happens on its own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}

/// A way to the servers that can be closed: a port that passes on what it gets.
pub(crate) struct Gate {
    pub(crate) server: String,
    at: SocketAddr,
    open: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Gate {
    pub(crate) fn to(server: &str) -> Self {
        let (place, fingerprint) = server.trim_start_matches("buri://").split_once('#').unwrap();
        let place = if place.contains(':') { place.to_owned() } else { format!("{place}:12975") };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (open, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (still_open, kept) = (Arc::clone(&open), Arc::clone(&ends));
        let keeper = thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if !still_open.load(Ordering::SeqCst) {
                    return;
                }
                let far = TcpStream::connect(&place).unwrap();
                let copies = [(&near, &far), (&far, &near)].map(|(from, to)| (clone(from), clone(to)));
                for (mut from, mut to) in copies {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().unwrap().extend([near, far]);
            }
        });
        Self { server: format!("buri://{at}#{fingerprint}"), at, open, ends, keeper: Some(keeper) }
    }

    /// Ends what goes through, and lets nothing through any more.
    pub(crate) fn close(&mut self) {
        self.open.store(false, Ordering::SeqCst);
        let _ = TcpStream::connect(self.at);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().unwrap()
}
