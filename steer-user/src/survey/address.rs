//! Local addresses and network devices: how steer shows those of a group, and which groups
//! `--bind` names.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    str::FromStr,
};

use rustix::net::netdevice::{index_to_name, name_to_index};
use steer_common::config::GroupKey;

use crate::{
    output::{
        escape,
        exit::{Exit, Fail},
    },
    sys::{netns, procfs},
};

/// The longest name that a device can have, in bytes.
const LONGEST: usize = 15;

/// The address and port of a group.
pub fn local(key: &GroupKey) -> SocketAddr {
    let port = key.port as u16;
    if key.family == libc::AF_INET as u32 {
        let [a, b, c, d, ..] = key.address;
        SocketAddr::from(([a, b, c, d], port))
    } else {
        SocketAddr::from((key.address, port))
    }
}

/// The device that a group is bound to: its name. If the device is in another network namespace,
/// or gone, its number.
pub fn device(key: &GroupKey) -> Option<String> {
    if key.device == 0 {
        return None;
    }
    let is_here = netns::cookie().is_ok_and(|here| here == key.netns_cookie);
    let name = is_here.then(netns::probe).and_then(Result::ok);
    let name = name.and_then(|probe: OwnedFd| index_to_name(&probe, key.device).ok());
    Some(name.map_or_else(|| key.device.to_string(), escape::foreign))
}

/// A local address with its device, as `ss` writes it.
pub fn with_device(local: impl Display, device: Option<&str>) -> String {
    let local = local.to_string();
    match (device, local.rsplit_once(':')) {
        (Some(device), Some((ip, port))) => format!("{ip}%{device}:{port}"),
        _ => local,
    }
}

/// The address and device of a group, in the words of messages.
pub fn shown(key: &GroupKey) -> String {
    with_device(local(key), device(key).as_deref())
}

/// Chooses groups of a port by local address, by device, or by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    address: Option<IpAddr>,
    device: Option<String>,
}

impl FromStr for Bind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected an address, a network device or both, such as 127.0.0.1, %eth0, or fe80::1%eth0";
        let (address, device) = match text.split_once('%') {
            Some((address, device)) => (address, Some(device)),
            None => (text, None),
        };
        let is_name = |name: &str| {
            let has_none = |wrong: fn(char) -> bool| !name.contains(wrong);
            (1..=LONGEST).contains(&name.len())
                && has_none(|one| matches!(one, '/' | ':' | '\0') || one.is_whitespace())
        };
        if !device.is_none_or(is_name) {
            return Err(FORM);
        }
        let address = match (address, device) {
            ("", Some(_)) => None,
            (address, _) => Some(
                address
                    .parse()
                    .map_err(|_wrong: std::net::AddrParseError| FORM)?,
            ),
        };
        Ok(Self {
            address,
            device: device.map(str::to_owned),
        })
    }
}

impl Display for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(formatter, "{address}")?;
        }
        if let Some(device) = &self.device {
            write!(formatter, "%{device}")?;
        }
        Ok(())
    }
}

impl Bind {
    /// Whether a group is chosen. A device is found by its name, so a device that was made anew,
    /// with another number, is found, too.
    pub fn has(&self, key: &GroupKey) -> bool {
        self.address
            .is_none_or(|address| local(key).ip() == address)
            && (self.device.as_deref()).is_none_or(|device| index(device) == Some(key.device))
    }

    /// Checks that the calling thread's network namespace has the device.
    pub fn require_device(&self) -> Result<(), Fail> {
        match self.device.as_deref() {
            Some(device) if index(device).is_none() => {
                let device = escape::foreign(device);
                let what = format!(
                    "--bind names {device}, but this network namespace has no such device; `ip link` lists its devices"
                );
                Err(Fail::new(Exit::NothingThere, what))
            }
            _ => Ok(()),
        }
    }

    /// The chosen groups of a port, in the words of messages.
    pub fn of(&self, port: u16) -> String {
        let what = match (&self.address, &self.device) {
            (None, Some(device)) => format!("on device {device}"),
            _ => format!("at address {self}"),
        };
        format!("tcp port {port} {}", escape::foreign(what))
    }
}

/// The number of a device, given by its name or in digits. None if there is no such device, or if
/// steer can't tell.
fn index(device: &str) -> Option<u32> {
    let probe = netns::probe().ok()?;
    let by_number = || {
        let index = procfs::number(device.as_bytes())?;
        index_to_name(&probe, index).is_ok().then_some(index)
    };
    name_to_index(&probe, device).ok().or_else(by_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{survey::groups::key_of, sys::sockdiag::Listener};

    fn key(local: &str, device: u32) -> GroupKey {
        let listener = Listener {
            cookie: 1,
            inode: 1,
            uid: 0,
            local: local.parse().expect("an address"),
            v6only: false,
            device,
            accept_queue: 0,
            backlog: 1,
            mptcp: false,
        };
        key_of(netns::cookie().expect("a cookie"), &listener)
    }

    fn bind(text: &str) -> Bind {
        text.parse().expect("an address or a device")
    }

    #[test]
    fn what_names_groups() {
        for text in [
            "127.0.0.1",
            "::",
            "%eth0",
            "fe80::1%eth0",
            "10.0.0.1%2",
            "%a%b",
        ] {
            assert_eq!(bind(text).to_string(), text);
        }
        for wrong in [
            "",
            "%",
            "::1%",
            "eth0",
            "1.2.3%eth0",
            "%a/b",
            "%a b",
            "[::1]",
            "::1%sixteen-letters!",
            "127.0.0.1:80",
        ] {
            assert!(wrong.parse::<Bind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_device_is_shown() {
        let lo = index("lo").expect("a loopback device");
        assert_eq!(shown(&key("127.0.0.1:80", 0)), "127.0.0.1:80");
        assert_eq!(shown(&key("127.0.0.1:80", lo)), "127.0.0.1%lo:80");
        assert_eq!(shown(&key("[fe80::1]:80", lo)), "[fe80::1]%lo:80");
        assert_eq!(shown(&key("0.0.0.0:80", u32::MAX)), "0.0.0.0%4294967295:80");
        let elsewhere = GroupKey {
            netns_cookie: u64::MAX,
            ..key("127.0.0.1:80", lo)
        };
        assert_eq!(shown(&elsewhere), format!("127.0.0.1%{lo}:80"));
    }

    #[test]
    fn address_and_device_are_compared() {
        let lo = index("lo").expect("a loopback device");
        let (free, bound) = (key("[fe80::1]:80", 0), key("[fe80::1]:80", lo));
        let other = key("[fe80::2]:80", lo);
        let has = |text: &str| [free, bound, other].map(|key| bind(text).has(&key));
        assert_eq!(has("fe80::1"), [true, true, false]);
        assert_eq!(has("fe80::1%lo"), [false, true, false]);
        assert_eq!(has(&format!("fe80::1%{lo}")), [false, true, false]);
        assert_eq!(has("%lo"), [false, true, true]);
        assert_eq!(has("%nothing"), [false; 3]);
        assert!(bind("%lo").require_device().is_ok());
        assert!(bind("fe80::1%nothing").require_device().is_err());
    }
}
