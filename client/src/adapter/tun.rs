//! A network interface of packets (layer 3).
//!
//! Broadcast and multicast need no routes of their own on Linux: a socket that is bound to the virtual address or to the
//! interface, or that chose the interface for multicast, sends through it, and everybody else's go where they went before.
//! The prefix route that comes with the address brings the directed broadcast along.

use std::io;

use domain::Prefix;
use tun_rs::Layer;

use super::{Lan, ethernet, interface::Interface};

/// The interface; it goes away with this value.
#[derive(Debug)]
pub struct Tun(Interface);

impl Tun {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        Interface::open(interface, Layer::L3).map(Self)
    }

    pub(crate) fn configure(&mut self, lan: &Lan) -> io::Result<()> {
        self.0.configure(lan)
    }

    pub(crate) fn follow(&mut self, prefixes: &[Prefix]) -> Vec<(Prefix, io::Error)> {
        self.0.follow(prefixes)
    }

    pub(crate) async fn receive(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.0.receive(packet).await
    }

    pub(crate) fn try_receive(&self, packet: &mut [u8]) -> Option<usize> {
        self.0.try_receive(packet)
    }

    pub(crate) fn deliver(&self, packet: &[u8]) {
        // The operating system would complain to the sender of a frame that is meant for others.
        if !ethernet::is_carried(packet) {
            self.0.deliver(packet);
        }
    }
}
