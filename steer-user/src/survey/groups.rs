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

/// How long the listeners of a process may live on after the process, as it ends, has given up
/// its descriptors.
const CLOSING: Duration = Duration::from_millis(200);

/// How often to look meanwhile.
const CLOSING_LOOK: Duration = Duration::from_millis(5);

/// A listener and who serves it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The listener's socket.
    pub listener: Listener,
    /// Kernel address of the socket. 0 if it isn't known.
    pub sock: u64,
    /// Kernel address of the wait queue in which its worker's event loop waits. 0 if it isn't
    /// known.
    pub event_loop: u64,
    /// Who serves it.
    pub serving: Serving,
    /// A process that holds the listener, if there is one. Detaching needs it.
    pub holder: Option<Holder>,
}

/// A group. Or a single listener without SO_REUSEPORT, which is in no group.
#[derive(Clone, Debug)]
pub struct FoundGroup {
    /// What the kernel forms the group by.
    pub key: GroupKey,
    /// Kernel address of the group. 0 without SO_REUSEPORT.
    pub reuse: u64,
    /// Id of the attached eBPF program. 0 for none.
    pub program_id: u32,
    /// Whether any program is attached, eBPF or classic BPF.
    pub has_program: bool,
    /// The listeners.
    pub listeners: Vec<Found>,
}

/// Which processes to look at, besides those whose listeners show something new.
#[derive(Clone, Copy, Debug)]
pub enum Look<'a> {
    /// All processes.
    Everywhere,
    /// None, except for new listeners: for them, these processes first.
    At(&'a [u32]),
    /// These processes have ended. For each listener that one of them held, look at all
    /// processes.
    Ended(&'a [u32]),
}

/// What is remembered of the listeners of a port from one survey to the next.
#[derive(Debug, Default)]
pub struct Following {
    /// Who held a listener at the last look, by the listener's inode.
    holders: BTreeMap<u64, Vec<Holder>>,
    /// Who serves a listener, by the listener's cookie.
    memories: BTreeMap<u64, Memory>,
    /// Queues for which a look at all processes has explained nothing, by the listener's inode.
    in_vain: BTreeMap<u64, Queue>,
}

impl Following {
    /// Remembers what an earlier steer has left.
    pub fn remember(&mut self, cookie: u64, memory: Memory) {
        self.memories.insert(cookie, memory);
    }

    /// The cookies of the listeners of which a later look may tell more.
    pub fn open(&self) -> BTreeSet<u64> {
        let open = self.memories.iter().filter(|(_, memory)| memory.is_open());
        open.map(|(cookie, _)| *cookie).collect()
    }

    /// The processes whose end can change who serves a listener: all that hold one.
    pub fn processes(&self) -> BTreeSet<u32> {
        let holders = self.holders.values().flatten();
        holders.map(|holder| holder.pid).collect()
    }

    /// Finds who holds the listeners, for those listeners that need it. Looks at no more
    /// processes than needed.
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
                // Somebody waits on the listener who is none of those processes: a new worker
                // that an old one has forked, for example.
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

/// Looks who listens on the port, and who serves each listener.
pub fn survey(
    port: Port,
    members: &mut Members,
    following: &mut Following,
    look: Look<'_>,
) -> anyhow::Result<Vec<FoundGroup>> {
    // Listing a socket by sock_diag gives it a cookie. The second list is matched by these
    // cookies.
    let listeners = sockdiag::listeners(port.port)?;
    let cookies = listeners.iter().map(|listener| listener.cookie).collect();
    let by_cookie: BTreeMap<u64, Member> = members
        .list(&cookies)?
        .into_iter()
        .map(|member| (member.cookie, member))
        .collect();
    let listed: Vec<(Listener, Member)> = listeners
        .into_iter()
        // A listener that is in one list only came or went between the two.
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

/// Who holds each of these listeners of a port. A listener that is gone by now has no holder.
/// That is no reason to fail if some process can't be looked into: a process that ends gives up
/// its descriptors a moment before its listeners are gone.
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

/// The key by which the kernel puts a listener into a group.
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
