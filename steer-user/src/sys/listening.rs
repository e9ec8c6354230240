//! Listening TCP sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::sockopt;

/// The options of a listener.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Local address and port.
    pub address: SocketAddr,
    /// Whether it joins the other listeners of the port (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`. `None` leaves the system's default. No effect on IPv4.
    pub v6only: Option<bool>,
    /// The limit of the accept queue, in connections.
    pub backlog: i32,
    /// For how many seconds a connection may remain a handshake until it sends data
    /// (`TCP_DEFER_ACCEPT`).
    pub defer_accept: Option<u32>,
    /// Whether it is a Multipath TCP listener. Minimum kernel version: 5.6.
    pub mptcp: bool,
    /// The network device that it is bound to (`SO_BINDTODEVICE`).
    pub device: Option<String>,
}

impl ListenOptions {
    /// A plain listener with `SO_REUSEPORT` and a backlog of 512, as Bun makes it.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            reuse_port: true,
            v6only: None,
            backlog: 512,
            defer_accept: None,
            mptcp: false,
            device: None,
        }
    }
}

/// Makes a socket that is bound and doesn't listen yet.
///
/// # Errors
/// If the kernel refuses one of the options or the address.
pub fn bind(options: &ListenOptions) -> io::Result<Socket> {
    let protocol = if options.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let domain = Domain::for_address(options.address);
    let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
    // With this a worker can follow another that left connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if let (Some(v6only), true) = (options.v6only, options.address.is_ipv6()) {
        socket.set_only_v6(v6only)?;
    }
    if let Some(seconds) = options.defer_accept {
        sockopt::defer_accept(&socket, seconds)?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.bind(&options.address.into())?;
    Ok(socket)
}

/// Makes a listener.
///
/// # Errors
/// If the kernel refuses one of the options, the address, or to listen.
pub fn listen(options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = bind(options)?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}
