//! Sealed statements of reflectors: where a session was seen from, when, and over how many hops.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use domain::{Observation, SessionTag, UnixMillis};
use ring::hmac;
use subtle::ConstantTimeEq as _;

/// How long an observation counts: a negotiation takes seconds, the rest is for clocks of servers that disagree.
pub const OBSERVATION_LIFETIME: Duration = Duration::from_secs(60);

const VERSION: u8 = 1;
const ENDPOINT: usize = 18;
const BODY: usize = 1 + ENDPOINT + ENDPOINT + 1 + 8 + 16;
const MAC: usize = 16;
const LABEL: &[u8] = b"buri observation v1";

/// Size of a sealed observation.
pub(super) const SEALED: usize = BODY + MAC;

/// What a reflector saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Where the packet came from.
    pub seen: SocketAddr,
    /// The endpoint that it was sent to.
    pub reflector: SocketAddr,
    /// Hop limit it arrived with; 0 when unknown.
    pub ttl: u8,
    /// By the clock of the reflector.
    pub at: UnixMillis,
    /// The session that it was sent for.
    pub tag: SessionTag,
}

/// Why a statement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ObservationError {
    #[error("the observation was not made by this deployment")]
    Forged,
    #[error("the observation belongs to another session")]
    Foreign,
    #[error("the observation is older than {} seconds, or of the future", OBSERVATION_LIFETIME.as_secs())]
    Expired,
}

/// Seals and opens observations: one secret for all reflectors and rendezvous processes of a deployment.
#[derive(Clone)]
pub struct ObservationKey(hmac::Key);

impl ObservationKey {
    /// The key made of this secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The statement as it travels.
    #[must_use]
    pub fn seal(&self, observed: &Observed) -> Observation {
        Observation(self.sealed(observed).to_vec())
    }

    /// The statement, provided that it was made for the session `tag` and is fresh.
    ///
    /// # Errors
    /// [`ObservationError`].
    pub fn open(
        &self,
        observation: &Observation,
        tag: SessionTag,
        now: UnixMillis,
    ) -> Result<Observed, ObservationError> {
        let (body, mac) = observation.0.split_at_checked(BODY).ok_or(ObservationError::Forged)?;
        if !bool::from(self.mac(body).ct_eq(mac)) {
            return Err(ObservationError::Forged);
        }
        let observed = Observed::claimed(observation).ok_or(ObservationError::Forged)?;
        if observed.tag != tag {
            return Err(ObservationError::Foreign);
        }
        if now.since(observed.at).max(observed.at.since(now)) > OBSERVATION_LIFETIME {
            return Err(ObservationError::Expired);
        }
        Ok(observed)
    }

    pub(super) fn sealed(&self, observed: &Observed) -> [u8; SEALED] {
        let mut bytes = [0; SEALED];
        bytes[0] = VERSION;
        bytes[1..19].copy_from_slice(&endpoint_bytes(observed.seen));
        bytes[19..37].copy_from_slice(&endpoint_bytes(observed.reflector));
        bytes[37] = observed.ttl;
        bytes[38..46].copy_from_slice(&observed.at.0.to_be_bytes());
        bytes[46..BODY].copy_from_slice(&observed.tag.0);
        let mac = self.mac(&bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&mac);
        bytes
    }

    fn mac(&self, body: &[u8]) -> [u8; MAC] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        context.update(body);
        let mut mac = [0; MAC];
        mac.copy_from_slice(&context.sign().as_ref()[..MAC]);
        mac
    }
}

impl std::fmt::Debug for ObservationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ObservationKey(..)")
    }
}

impl Observed {
    /// What an observation says, true or not: for clients, which have no key and nobody to deceive but themselves.
    #[must_use]
    pub fn claimed(observation: &Observation) -> Option<Self> {
        let bytes: &[u8; SEALED] = observation.0.as_slice().try_into().ok()?;
        if bytes[0] != VERSION {
            return None;
        }
        Some(Self {
            seen: endpoint(&bytes[1..19])?,
            reflector: endpoint(&bytes[19..37])?,
            ttl: bytes[37],
            at: UnixMillis(u64::from_be_bytes(bytes[38..46].try_into().ok()?)),
            tag: SessionTag(bytes[46..BODY].try_into().ok()?),
        })
    }
}

/// Address as IPv6 (IPv4 mapped), then port.
fn endpoint_bytes(endpoint: SocketAddr) -> [u8; ENDPOINT] {
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; ENDPOINT];
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes
}

fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const TAG: SessionTag = SessionTag([7; 16]);

    #[test]
    fn an_observation_opens_for_its_session_while_it_is_fresh() {
        let key = ObservationKey::new(&[1; 32]);
        for seen in ["203.0.113.9:40000", "[2001:db8::9]:40000"] {
            let observed = observed(seen);
            let sealed = key.seal(&observed);
            assert_eq!(key.open(&sealed, TAG, NOW), Ok(observed));
            assert_eq!(key.open(&sealed, SessionTag([8; 16]), NOW), Err(ObservationError::Foreign));
            let later = NOW.plus(OBSERVATION_LIFETIME + Duration::from_millis(1));
            assert_eq!(key.open(&sealed, TAG, later), Err(ObservationError::Expired));
            let earlier = UnixMillis(NOW.0 - 60_001);
            assert_eq!(key.open(&sealed, TAG, earlier), Err(ObservationError::Expired));
        }
    }

    #[test]
    fn no_bit_of_an_observation_can_be_changed() {
        let key = ObservationKey::new(&[1; 32]);
        let sealed = key.seal(&observed("203.0.113.9:40000"));
        for bit in 0..sealed.0.len() * 8 {
            let mut forged = sealed.clone();
            forged.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&forged, TAG, NOW), Err(ObservationError::Forged));
        }
        let other = ObservationKey::new(&[2; 32]);
        assert_eq!(other.open(&sealed, TAG, NOW), Err(ObservationError::Forged));
    }

    fn observed(seen: &str) -> Observed {
        Observed {
            seen: seen.parse().unwrap(),
            reflector: "198.51.100.1:3478".parse().unwrap(),
            ttl: 57,
            at: NOW,
            tag: TAG,
        }
    }
}
