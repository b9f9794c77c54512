//! What a datagram of the generator says. Pure.

/// Epoch, leg, sequence number and sending time.
pub(crate) const LEAST_PAYLOAD: usize = 4 + 4 + 4 + 8;

/// What a datagram of the generator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) epoch: u32,
    pub(crate) leg: usize,
    pub(crate) sequence: u32,
    /// In nanoseconds of the generator.
    pub(crate) sent_at: u64,
}

impl Stamp {
    pub(crate) fn write(&self, out: &mut [u8]) -> anyhow::Result<()> {
        out[..4].copy_from_slice(&self.epoch.to_be_bytes());
        out[4..8].copy_from_slice(&u32::try_from(self.leg)?.to_be_bytes());
        out[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        out[12..LEAST_PAYLOAD].copy_from_slice(&self.sent_at.to_be_bytes());
        Ok(())
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (epoch, rest) = payload.split_first_chunk::<4>()?;
        let (leg, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let (sent_at, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            epoch: u32::from_be_bytes(*epoch),
            leg: usize::try_from(u32::from_be_bytes(*leg)).ok()?,
            sequence: u32::from_be_bytes(*sequence),
            sent_at: u64::from_be_bytes(*sent_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { epoch: 1, leg: 2, sequence: 3, sent_at: 4 };
        let mut payload = [0; LEAST_PAYLOAD + 1];
        stamp.write(&mut payload).unwrap();
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..LEAST_PAYLOAD - 1]), None);
    }
}
