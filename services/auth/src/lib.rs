//! The role that knows who is who: client keys, tokens and their keys.
