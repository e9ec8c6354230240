//! What listens on a port: every group, its listeners, and who serves them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use steer_common::{config::GroupKey, event::Member, registry::IPPROTO_TCP};

use crate::{
    survey::{
        members::Members,
        port::Port,
        proc::holders::{self, Holder, ProcError, Scope},
        queue::Queue,
        serving::{Memory, Serving},
    },
    sys::sockdiag::{self, Listener},
};

/// How long it may take from when a process that ends has given up its descriptors until its listeners are gone.
const CLOSING: Duration = Duration::from_millis(200);

/// How often that is looked at.
const CLOSING_LOOK: Duration = Duration::from_millis(5);

/// A listener and who serves it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The socket.
    pub listener: Listener,
    /// Its kernel address, 0 where it isn't known.
    pub sock: u64,
    /// Kernel address of where its worker's event loop waits, 0 where nothing tells.
    pub event_loop: u64,
    /// Who serves it.
    pub serving: Serving,
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

/// Which processes to look at, beside those whose listeners show something new.
#[derive(Clone, Copy, Debug)]
pub enum Look<'a> {
    /// At every process.
    Everywhere,
    /// For new listeners only, at these processes first.
    At(&'a [u32]),
    /// For everybody who has a listener that one of these processes had, which have ended.
    Ended(&'a [u32]),
}

/// What is known of the listeners of a port from one survey to the next.
#[derive(Debug, Default)]
pub struct Following {
    /// Who held a listener when that was last looked at, by inode.
    holders: BTreeMap<u64, Vec<Holder>>,
    /// Who serves it, by cookie.
    memories: BTreeMap<u64, Memory>,
    /// The queue of a listener, by inode, for which every process was looked at in vain.
    in_vain: BTreeMap<u64, Queue>,
}

impl Following {
    /// Remembers what an earlier steer left.
    pub fn remember(&mut self, cookie: u64, memory: Memory) {
        self.memories.insert(cookie, memory);
    }

    /// The listeners of which a later look may tell more.
    pub fn open(&self) -> BTreeSet<u64> {
        let open = self.memories.iter().filter(|(_, memory)| memory.is_open());
        open.map(|(cookie, _)| *cookie).collect()
    }

    /// The processes whose end changes who serves a listener: all that hold one.
    pub fn processes(&self) -> BTreeSet<u32> {
        let holders = self.holders.values().flatten();
        holders.map(|holder| holder.pid).collect()
    }

    /// Looks who holds the listeners that need it, and at no other process than these need.
    fn look(
        &mut self,
        port: u16,
        members: &mut Members,
        listed: &[(Listener, Member)],
        look: Look<'_>,
    ) -> anyhow::Result<()> {
        let mut unknown = BTreeSet::new();
        let mut unsure = BTreeSet::new();
        let mut orphaned = BTreeSet::new();
        for (listener, member) in listed {
            let inode = listener.inode;
            let known = self.holders.get(&inode);
            let had = |pids: &[u32]| {
                let mut holders = known.into_iter().flatten();
                holders.any(|holder| pids.contains(&holder.pid))
            };
            let memory = self.memories.get(&listener.cookie);
            let wants_look = || memory.is_none_or(|memory| memory.wants_look(&Queue::of(member)));
            let set = match look {
                Look::Everywhere => &mut orphaned,
                Look::Ended(pids) if had(pids) => &mut orphaned,
                Look::At(_) | Look::Ended(_) if known.is_none() => &mut unknown,
                Look::At(_) | Look::Ended(_) if wants_look() => &mut unsure,
                Look::At(_) | Look::Ended(_) => continue,
            };
            set.insert(inode);
        }
        let hint = match look {
            Look::At(pids) => pids,
            Look::Everywhere | Look::Ended(_) => &[],
        };
        if !unknown.is_empty() {
            let found = holders(port, &unknown, Scope::Pids(hint))?;
            orphaned.extend(unknown.iter().filter(|inode| !found.contains_key(inode)));
            self.holders.extend(found);
        }
        if !unsure.is_empty() {
            let mut pids = hint.to_vec();
            let known = unsure.iter().filter_map(|inode| self.holders.get(inode));
            pids.extend(known.flatten().map(|holder| holder.pid));
            let mut found = holders(port, &unsure, Scope::Pids(&pids))?;
            for inode in unsure {
                let holders = found.remove(&inode).unwrap_or_default();
                let queue = listed
                    .iter()
                    .find(|(listener, _)| listener.inode == inode)
                    .map(|(_, member)| Queue::of(member));
                let is_explained = queue.is_some_and(|queue| queue.is_explained_by(&holders));
                self.holders.insert(inode, holders);
                // Somebody waits there who is none of those, as a new worker that an old one forked.
                if let Some(queue) = queue
                    && !is_explained
                    && self.in_vain.get(&inode) != Some(&queue)
                {
                    orphaned.insert(inode);
                    self.in_vain.insert(inode, queue);
                }
            }
        }
        if !orphaned.is_empty() {
            let mut found = holders(port, &orphaned, Scope::All(&members.open_files()?))?;
            for inode in orphaned {
                self.holders
                    .insert(inode, found.remove(&inode).unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Looks at the port.
pub fn survey(
    port: Port,
    members: &mut Members,
    following: &mut Following,
    look: Look<'_>,
) -> anyhow::Result<Vec<FoundGroup>> {
    // Listing the sockets gives each of them a cookie, by which the second list is matched.
    let listeners = sockdiag::listeners(port.port)?;
    let cookies = listeners.iter().map(|listener| listener.cookie).collect();
    let by_cookie: BTreeMap<u64, Member> = members
        .list(&cookies)?
        .into_iter()
        .map(|member| (member.cookie, member))
        .collect();
    let listed: Vec<(Listener, Member)> = listeners
        .into_iter()
        // One without a member came or went between the two lists.
        .filter_map(|listener| {
            let member = *by_cookie.get(&listener.cookie)?;
            Some((listener, member))
        })
        .collect();
    let inodes: BTreeSet<u64> = listed.iter().map(|(listener, _)| listener.inode).collect();
    following.holders.retain(|inode, _| inodes.contains(inode));
    following.in_vain.retain(|inode, _| inodes.contains(inode));
    let is_listed = |cookie: &u64| {
        listed
            .iter()
            .any(|(listener, _)| listener.cookie == *cookie)
    };
    following.memories.retain(|cookie, _| is_listed(cookie));
    following.look(port.port, members, &listed, look)?;
    let mut groups: Vec<FoundGroup> = Vec::new();
    for (listener, member) in listed {
        let holders = following.holders.get(&listener.inode);
        let holders = holders.map_or(&[][..], Vec::as_slice);
        let memory = following.memories.entry(listener.cookie).or_default();
        let serving = memory.observe(holders, Queue::of(&member));
        let key = key_of(port.netns_cookie, &listener);
        let found = Found {
            sock: member.sock,
            event_loop: memory.event_loop(),
            serving,
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
/// no reason to fail where some process can't be looked into: a process that ends gives up its descriptors
/// a moment before its listeners are gone.
fn holders(
    port: u16,
    inodes: &BTreeSet<u64>,
    scope: Scope<'_>,
) -> anyhow::Result<BTreeMap<u64, Vec<Holder>>> {
    let deadline = Instant::now() + CLOSING;
    let mut inodes = inodes.clone();
    loop {
        let denied = match holders::holders(&inodes, scope) {
            Err(error @ ProcError::Denied { .. }) => error,
            result => return Ok(result?),
        };
        if Instant::now() > deadline {
            return Err(denied.into());
        }
        thread::sleep(CLOSING_LOOK);
        let listed = sockdiag::listeners(port)?;
        let listed: BTreeSet<u64> = listed.iter().map(|listener| listener.inode).collect();
        inodes.retain(|inode| listed.contains(inode));
    }
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
