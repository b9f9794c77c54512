//! A client's session with a gateway, as far as load needs it.

use std::net::SocketAddr;

use anyhow::Context as _;
use domain::{IdentityKey, Signature, TUNNEL_KEY_CONTEXT, TunnelKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wire::{
    control::{ClientFrame, LOGIN_CONTEXT, Login, Reply, Request, ServerFrame, VERSION},
    secure::{Channel, Event},
    server_url::ServerUrl,
};

/// One client that is logged in.
pub(crate) struct Session {
    stream: TcpStream,
    channel: Channel,
    asked: u32,
}

/// From the connection to the last word of the first synchronisation.
pub(crate) async fn log_in(url: &ServerUrl, address: SocketAddr, seed: &[u8; 32]) -> anyhow::Result<Session> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut session = Session { stream, channel: Channel::client(url.key()), asked: 0 };
    session.until(|event| matches!(event, Event::Opened(_)).then_some(())).await?;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| anyhow::anyhow!("no key"))?;
    let tunnel = TunnelKey::from_bytes(*seed);
    let sign = |parts: &[&[u8]]| Signature::try_from(pair.sign(&parts.concat()).as_ref());
    let hash = *session.channel.handshake_hash().context("no handshake")?;
    let login = Login {
        version: VERSION,
        identity: IdentityKey::try_from(pair.public_key().as_ref())?,
        tunnel,
        tunnel_signature: sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()])?,
        signature: sign(&[LOGIN_CONTEXT, &hash])?,
        nick: None,
        token: None,
        known: Vec::new(),
        client: None,
    };
    session.channel.send(&ClientFrame::Login(Box::new(login)).encode())?;
    session
        .until(|event| {
            let Event::Frame(bytes) = event else { return None };
            match ServerFrame::decode(&bytes) {
                Ok(ServerFrame::Synced(..)) => Some(Ok(())),
                Ok(ServerFrame::Refused(refused)) => Some(Err(anyhow::anyhow!("refused with code {}", refused.code))),
                _ => None,
            }
        })
        .await??;
    Ok(session)
}

impl Session {
    /// Asks for something, and waits for the answer.
    pub(crate) async fn ask(&mut self, request: Request) -> anyhow::Result<Reply> {
        self.asked += 1;
        let number = self.asked;
        self.channel.send(&ClientFrame::Request(number, request).encode())?;
        self.until(|event| {
            let Event::Frame(bytes) = event else { return None };
            match ServerFrame::decode(&bytes) {
                Ok(ServerFrame::Reply(to, reply)) if to == number => Some(Ok(reply)),
                Ok(ServerFrame::Refusal(to, refused)) if to == number => {
                    Some(Err(anyhow::anyhow!("refused with code {}", refused.code)))
                }
                _ => None,
            }
        })
        .await?
    }

    /// Moves bytes until `wanted` finds what it looks for.
    async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> anyhow::Result<T> {
        loop {
            let count = self.channel.outgoing().len();
            if count > 0 {
                self.stream.write_all(self.channel.outgoing()).await?;
                self.channel.sent(count);
            }
            while let Some(event) = self.channel.poll_event()? {
                if let Some(found) = wanted(event) {
                    return Ok(found);
                }
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await?;
            anyhow::ensure!(count > 0, "the server closed the connection");
            self.channel.handle_bytes(&buffer[..count]);
        }
    }
}
