//! An `iroh-relay` on loopback, as its crate runs it. `iroh-relay ADDRESS [CERTIFICATE]`: with the second, over TLS, with a
//! certificate of its own that it writes there. Prints where it listens; ends when standard input does.

use std::{env, fs, net::SocketAddr};

use anyhow::Context as _;
use iroh_relay::server::{CertConfig, RelayConfig, Server, ServerConfig, TlsConfig};
use rcgen::generate_simple_self_signed;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt as _;

/// For whom the certificate is made: what loadtest calls any relay.
const NAME: &str = "buri.invalid";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let address: SocketAddr = args.next().context("iroh-relay ADDRESS [CERTIFICATE]")?.parse()?;
    let mut relay = RelayConfig::new(address);
    if let Some(path) = args.next() {
        let made = generate_simple_self_signed([NAME.to_owned()])?;
        fs::write(path, made.cert.pem())?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let server_config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        relay.tls = Some(TlsConfig::new(address, CertConfig::Manual { server_config }));
        // Of the plain listener, which is not used then.
        relay.http_bind_addr = SocketAddr::new(address.ip(), 0);
    }
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    let server = Server::spawn(config).await?;
    println!("{}", server.https_addr().or(server.http_addr()).context("it listens nowhere")?);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
