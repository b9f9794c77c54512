//! The secure channel: pieces do not matter, and nothing that a stranger sends is taken for a frame.

use wire::secure::{Channel, Event, SecureError, ServerSecret};

pub(crate) fn check(bytes: &[u8]) {
    let channels: [fn() -> Channel; 3] =
        [|| Channel::server(secret()), || Channel::client(None), || Channel::client(Some(secret().public()))];
    for new in channels {
        let whole = events(new(), &[bytes]);
        let (front, back) = bytes.split_at(bytes.first().map_or(0, |first| usize::from(*first) % bytes.len()));
        assert_eq!(events(new(), &[front, back]), whole);
    }
    for side in opened() {
        let events = events(side, &[bytes]);
        assert!(!events.iter().any(|event| matches!(event, Ok(Event::Frame(_)))), "{events:?}");
    }
}

fn events(mut channel: Channel, pieces: &[&[u8]]) -> Vec<Result<Event, SecureError>> {
    let mut events = Vec::new();
    for piece in pieces {
        channel.handle_bytes(piece);
        loop {
            match channel.poll_event() {
                Ok(None) => break,
                Ok(Some(event)) => events.push(Ok(event)),
                Err(error) => {
                    events.push(Err(error));
                    return events;
                }
            }
        }
    }
    events
}

/// Both sides of a channel that is open.
fn opened() -> [Channel; 2] {
    let (mut client, mut server) = (Channel::client(Some(secret().public())), Channel::server(secret()));
    server.handle_bytes(client.outgoing());
    client.sent(client.outgoing().len());
    assert!(matches!(server.poll_event(), Ok(Some(Event::Opened(_)))));
    client.handle_bytes(server.outgoing());
    server.sent(server.outgoing().len());
    assert!(matches!(client.poll_event(), Ok(Some(Event::Opened(_)))));
    [client, server]
}

/// The server of the golden vectors.
fn secret() -> ServerSecret {
    ServerSecret::from_bytes([5; 32])
}
