//! An HTTP proxy on a router that lets nothing else out.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use crate::{lab::LAN_GATEWAY, namespace::Namespace};

/// Where the machines of a LAN reach it.
pub(crate) fn address() -> SocketAddr {
    (LAN_GATEWAY, 3128).into()
}

/// Serves CONNECT (RFC 9110, section 9.3.6) to port 443 for as long as the test runs.
pub(crate) fn start(router: &Namespace) {
    // Threads stay in the namespace of the one that starts them.
    router.enter(|| {
        let listener = TcpListener::bind(address()).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Who leaves in between, or asks for something else, ends the connection.
                std::thread::spawn(move || drop(serve(client)));
            }
        });
    });
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    let mut head = BufReader::new(client.try_clone()?);
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1\r\n"));
    let Some(target) = target.filter(|target| target.ends_with(":443")) else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    };
    let server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (back, there) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || pour(back, there));
    pour(client, server);
    Ok(())
}

fn pour(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
