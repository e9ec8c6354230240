//! What listens on a port: every group, its listeners, and who serves them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use steer_common::{config::GroupKey, event::Member};

use crate::{
    members::Members,
    owner::{self, Owner},
    procfd::{self, Holder, ProcError, Scope},
    sockdiag::{self, Listener},
};

const IPPROTO_TCP: u32 = 6;

/// A listener and who serves it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The socket.
    pub listener: Listener,
    /// Its kernel address, 0 where it isn't known.
    pub sock: u64,
    /// Kernel address of where its worker's event loop waits, 0 where nothing tells.
    pub waiters: u64,
    /// Who serves it.
    pub owner: Owner,
    /// A process that holds it, where there is one: what detaching needs.
    pub holder: Option<Holder>,
}

/// A group, or a listener without SO_REUSEPORT, which is in none.
#[derive(Clone, Debug)]
pub struct FoundGroup {
    /// The kernel's criteria.
    pub key: GroupKey,
    /// Kernel address of the group; 0 without SO_REUSEPORT.
    pub reuse: u64,
    /// Id of the attached eBPF program, 0 for none.
    pub program_id: u32,
    /// Whether anything is attached.
    pub has_program: bool,
    /// The listeners.
    pub listeners: Vec<Found>,
}

/// Which listeners to look at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Local port.
    pub port: u16,
}

/// Who held a listener when it was last looked at.
pub type Holders = BTreeMap<u64, Vec<Holder>>;

/// Looks at the port. `known` has holders of listeners, by inode, that need no second look; those
/// of others are looked for in `scope` and added to it.
pub fn survey(
    target: Target,
    members: &mut Members,
    known: &mut Holders,
    scope: Scope<'_>,
) -> anyhow::Result<Vec<FoundGroup>> {
    // Listing the sockets gives each of them a cookie, by which the second list is matched.
    let listeners = sockdiag::listeners(target.port)?;
    let by_cookie: BTreeMap<u64, Member> = members
        .list()?
        .into_iter()
        .map(|member| (member.cookie, member))
        .collect();
    let inodes: BTreeSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
    known.retain(|inode, _| inodes.contains(inode));
    let unknown: BTreeSet<u64> = inodes
        .into_iter()
        .filter(|inode| !known.contains_key(inode))
        .collect();
    if !unknown.is_empty() {
        let mut found = holders(target.port, &unknown, scope)?;
        let unfound = |found: &Holders| -> BTreeSet<u64> {
            let held = |inode: &u64| found.get(inode).is_some_and(|holders| !holders.is_empty());
            unknown
                .iter()
                .copied()
                .filter(|inode| !held(inode))
                .collect()
        };
        let rest = unfound(&found);
        if !rest.is_empty() && matches!(scope, Scope::Pids(_)) {
            found.extend(holders(target.port, &rest, Scope::All)?);
        }
        known.extend(found);
    }
    let mut groups: Vec<FoundGroup> = Vec::new();
    for listener in listeners {
        let Some(member) = by_cookie.get(&listener.cookie) else {
            // It came or went between the two lists.
            continue;
        };
        let holders = known.get(&listener.inode).map_or(&[][..], Vec::as_slice);
        let key = key_of(target.netns_cookie, &listener);
        let owner = owner::of(holders);
        let found = Found {
            sock: member.sock,
            waiters: waiters(member, &owner),
            owner,
            holder: holders.first().cloned(),
            listener,
        };
        let group = groups
            .iter_mut()
            .find(|group| group.reuse == member.reuse && member.reuse != 0);
        match group {
            Some(group) => group.listeners.push(found),
            None => groups.push(FoundGroup {
                key,
                reuse: member.reuse,
                program_id: member.program_id,
                has_program: member.has_program != 0,
                listeners: vec![found],
            }),
        }
    }
    groups.sort_by_key(|group| group.key);
    Ok(groups)
}

/// Who holds each of these listeners of a port. One that has gone meanwhile has no holder, which is
/// no reason to fail where some process can't be looked into.
fn holders(port: u16, inodes: &BTreeSet<u64>, scope: Scope<'_>) -> anyhow::Result<Holders> {
    let denied = match procfd::holders(inodes, scope) {
        Err(error @ ProcError::Denied { .. }) => error,
        result => return Ok(result?),
    };
    let listed = sockdiag::listeners(port)?;
    let listed: BTreeSet<u64> = listed.iter().map(|listener| listener.inode).collect();
    let still: BTreeSet<u64> = inodes.intersection(&listed).copied().collect();
    if still.len() == inodes.len() {
        return Err(denied.into());
    }
    Ok(procfd::holders(&still, scope)?)
}

/// The criteria by which the kernel puts a listener into a group.
pub fn key_of(netns_cookie: u64, listener: &Listener) -> GroupKey {
    let mut address = [0; 16];
    let family = match listener.local {
        SocketAddr::V4(local) => {
            address[..4].copy_from_slice(&local.ip().octets());
            libc::AF_INET
        }
        SocketAddr::V6(local) => {
            address = local.ip().octets();
            libc::AF_INET6
        }
    };
    GroupKey {
        netns_cookie,
        address,
        port: u32::from(listener.local.port()),
        family: family as u32,
        v6only: u32::from(listener.v6only),
        device: listener.device,
        uid: listener.uid,
        protocol: IPPROTO_TCP,
    }
}

/// Where the worker's event loop waits, where that tells whether the worker is free: one epoll
/// instance waits on the listener, or one thread does that isn't polling by other means.
fn waiters(member: &Member, owner: &Owner) -> u64 {
    match (owner, member.waiting) {
        (Owner::Process(holder), 1) if holder.polls => member.waiters,
        _ => 0,
    }
}

/// The address of a group, as `steer` shows it.
pub fn address(key: &GroupKey) -> SocketAddr {
    let port = key.port as u16;
    if key.family == libc::AF_INET as u32 {
        let [a, b, c, d, ..] = key.address;
        SocketAddr::from(([a, b, c, d], port))
    } else {
        SocketAddr::from((key.address, port))
    }
}
