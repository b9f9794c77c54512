//! The password protocol of networks: which OPAQUE (RFC 9807) is spoken.

use opaque_ke::{CipherSuite, Ristretto255, TripleDh, argon2::Argon2};

/// OPAQUE-3DH with ristretto255, SHA-512 and Argon2id (19 MiB, two passes): the stretching runs at the client.
#[derive(Debug)]
pub struct PasswordSuite;

impl CipherSuite for PasswordSuite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2::Sha512>;
    type Ksf = Argon2<'static>;
}

/// Mixed into every key exchange, so that its messages mean nothing in another protocol.
pub const PASSWORD_CONTEXT: &[u8] = b"buri network password v1";

/// The longest password, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1024;
