//! Bytes on the network: control, probe, relay, ticket, frame and code.
