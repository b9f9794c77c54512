//! An adapter without an operating system behind it: it answers echo requests. Needs no privilege.

use std::{collections::VecDeque, io};

use domain::VirtualAddresses;
use tokio::sync::Notify;
use tunnel::echo_reply;

/// The answers that wait to be sent.
#[derive(Debug, Default)]
pub struct Memory {
    addresses: Option<VirtualAddresses>,
    answers: VecDeque<Vec<u8>>,
    answered: Notify,
}

impl Memory {
    /// Who is asked.
    pub(crate) const fn configure(&mut self, addresses: VirtualAddresses) {
        self.addresses = Some(addresses);
    }

    pub(crate) async fn receive(&mut self, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(size) = self.try_receive(packet) {
                return Ok(size);
            }
            self.answered.notified().await;
        }
    }

    pub(crate) fn try_receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        let answer = self.answers.pop_front()?;
        packet.get_mut(..answer.len())?.copy_from_slice(&answer);
        Some(answer.len())
    }

    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        let Some(answer) = self.addresses.and_then(|own| echo_reply(&own, packet)) else { return };
        if self.answers.len() == MAX_ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
        self.answered.notify_one();
    }
}

/// Answers that wait; the oldest one is dropped for a newer one.
const MAX_ANSWERS: usize = 256;

#[cfg(test)]
mod tests {
    use tunnel::{InnerPacket, echo_request};

    use super::*;

    #[tokio::test]
    async fn an_echo_request_comes_back_as_its_reply() {
        let [alice, bob] = [1, 2].map(|number| VirtualAddresses {
            v4: Some([100, 64, 0, number].into()),
            v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number].into(),
        });
        let mut memory = Memory::default();
        memory.configure(bob);
        memory.deliver(&echo_request(&alice, bob.v6.into(), 1, 1, b"x").unwrap());

        let mut packet = [0; 1500];
        let size = memory.receive(&mut packet).await.unwrap();
        assert!(InnerPacket::parse(&packet[..size]).unwrap().is_to(&alice));
        assert_eq!(memory.try_receive(&mut packet), None);
    }
}
