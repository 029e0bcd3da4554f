//! A port that stays ours while nobody listens there, so that whoever goes away can come back.
//!
//! The port is bound for as long as this lives. Whoever connects meanwhile is refused, the kernel gives it to no other
//! program, and a listener that allows addresses to be reused, as those of Rust and of mosquitto do, may have it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _bound: TcpSocket,
}

impl Port {
    /// This address; with port 0, one that is free.
    pub(crate) fn reserve(address: SocketAddr) -> io::Result<Self> {
        let bound = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        bound.set_reuseaddr(true)?;
        bound.bind(address)?;
        Ok(Self { address: bound.local_addr()?, _bound: bound })
    }

    /// A free one of this machine, for nobody outside of it.
    pub(crate) fn local() -> io::Result<Self> {
        Self::reserve((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn while_nobody_listens_callers_are_refused_and_a_listener_may_come_and_go() {
        let port = Port::local().unwrap();
        for _ in 0..3 {
            let refused = TcpStream::connect(port.address()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(port.address()).unwrap();
            let caller = TcpStream::connect(port.address()).unwrap();
            // Closed at this end first, which leaves the address in use for a while.
            drop(listener.accept().unwrap());
            drop((caller, listener));
        }
    }
}
