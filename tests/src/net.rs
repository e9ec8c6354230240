//! The little that tests configure in their network namespace, by ioctl so that no other software
//! is needed.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::mount::{MountFlags, mount};
use socket2::{Domain, Socket, Type};

/// A network that is routed to loopback and whose addresses nobody has: what is sent there is
/// dropped, so that a handshake from there stays half done and no RST ends it.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 0);

/// The mask of [`NOWHERE`].
const NOWHERE_MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// Brings `lo` up, which gives it 127.0.0.1/8 and `::1`.
///
/// # Errors
/// When the kernel refuses.
pub fn loopback_up() -> anyhow::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::IFF_UP as libc::c_short,
        },
    };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    let socket = any_socket()?;
    // SAFETY: the descriptor is open, and SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result).context("failed to bring loopback up")
}

/// Adds the route to [`NOWHERE`].
///
/// # Errors
/// When the kernel refuses.
pub fn route_nowhere() -> anyhow::Result<()> {
    let mut device = *b"lo\0";
    // SAFETY: all fields of `rtentry` are numbers and pointers, for which zero is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(NOWHERE);
    route.rt_genmask = socket_address(NOWHERE_MASK);
    route.rt_flags = libc::RTF_UP as libc::c_ushort;
    route.rt_dev = device.as_mut_ptr().cast();
    let socket = any_socket()?;
    // SAFETY: the descriptor is open, and SIOCADDRT reads one `rtentry` and the name that it points
    // to, which both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    check(result).context("failed to add a route")
}

/// Gives `lo` an address of its own link, such as `fe80::7`.
///
/// # Errors
/// When the kernel refuses.
pub fn link_address(address: Ipv6Addr) -> anyhow::Result<()> {
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr {
            s6_addr: address.octets(),
        },
        ifr6_prefixlen: 64,
        // The first device of every network namespace.
        ifr6_ifindex: 1,
    };
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    // SAFETY: the descriptor is open, and SIOCSIFADDR of an IPv6 socket reads one `in6_ifreq`, which outlives
    // the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) };
    check(result).context("failed to add an address")
}

/// Sets a sysctl of the network namespace, such as `ipv4/tcp_syncookies`.
///
/// # Errors
/// When the kernel has no such file or refuses the value.
pub fn sysctl(name: &str, value: &str) -> anyhow::Result<()> {
    let file = PathBuf::from("/proc/sys/net").join(name);
    fs::write(&file, value)
        .with_context(|| format!("failed to write {value} to {}", file.display()))
}

/// A counter of the network namespace, such as `TCPFastOpenPassive`: those that `nstat` prints as
/// `TcpExt`.
///
/// # Errors
/// When the kernel has none of that name.
pub fn counter(name: &str) -> anyhow::Result<u64> {
    // Two lines for each protocol, one of names and one of numbers.
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap_or_default().split(' ');
    let numbers = lines.next().unwrap_or_default().split(' ');
    let counter = names.zip(numbers).find(|(found, _)| *found == name);
    let (_, number) = counter.with_context(|| format!("no counter {name}"))?;
    Ok(number.parse()?)
}

/// Has TCP Fast Open's connections wait on a listener, so many while their handshakes last.
///
/// # Errors
/// When the kernel refuses.
pub fn fast_open(listener: &TcpListener, limit: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the option is read from an integer of the size that is
    // given, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const limit).cast(),
            size_of_val(&limit) as libc::socklen_t,
        )
    })
}

/// Has loopback's segments handled in interrupts, on these processors (a bit each), as those of a
/// network card are: otherwise each is handled within the call that sends it.
///
/// # Errors
/// When the kernel refuses.
pub fn handle_in_interrupts(processors: u32) -> anyhow::Result<()> {
    // The machine's own /sys shows the machine's own devices.
    let sysfs = Path::new("/run/steer-tests-sysfs");
    fs::create_dir_all(sysfs)?;
    mount("sysfs", sysfs, "sysfs", MountFlags::empty(), None).context("failed to mount a sysfs")?;
    let file = sysfs.join("class/net/lo/queues/rx-0/rps_cpus");
    fs::write(&file, format!("{processors:x}"))
        .with_context(|| format!("failed to write {}", file.display()))
}

fn any_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

/// A `sockaddr` that holds what `sockaddr_in` holds: no port, the address, eight zeroes.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (place, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *place = byte as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
