//! Control frames: what reads has bytes that read as the same.

use wire::control::{ClientFrame, ServerFrame};

pub(crate) fn check(bytes: &[u8]) {
    if let Ok(frame) = ClientFrame::decode(bytes) {
        assert_eq!(ClientFrame::decode(&frame.encode()).ok(), Some(frame));
    }
    if let Ok(frame) = ServerFrame::decode(bytes) {
        assert_eq!(ServerFrame::decode(&frame.encode()).ok(), Some(frame));
    }
}
