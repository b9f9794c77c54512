//! What is remembered of a pair or a session: under which name, as which bytes.

use domain::ClientId;

/// The two clients of a pair, the lesser one first.
pub(crate) type Pair = (ClientId, ClientId);

pub(crate) fn pair(a: ClientId, b: ClientId) -> Pair {
    (a.min(b), a.max(b))
}

pub(crate) fn encoded<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to memory does not fail")
}
