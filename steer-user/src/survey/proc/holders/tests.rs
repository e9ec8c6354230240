use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    process::{Command, Stdio, id},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    io::{FdFlags, dup, fcntl_setfd},
};

use super::*;

fn listener() -> (TcpListener, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let duplicate = OwnedFd::from(listener.try_clone().expect("a duplicate"));
    let inode = File::from(duplicate).metadata().expect("its inode").ino();
    (listener, inode)
}

fn only(inode: u64, scope: Scope<'_>) -> Vec<Holder> {
    let mut found = holders(&BTreeSet::from([inode]), scope).expect("the holders");
    found.remove(&inode).unwrap_or_default()
}

#[test]
fn this_process_holds_what_it_opened() {
    let (socket, inode) = listener();
    let found = only(inode, Scope::Pids(&[id()]));
    let [holder] = found.as_slice() else {
        panic!("one holder, not {found:?}");
    };
    assert_eq!(holder.pid, id());
    assert_eq!(holder.fd, socket.as_raw_fd());
    assert!(!holder.polls);
    assert!(!holder.comm.is_empty() && !holder.comm.contains('\n'));
    let fd = socket.as_raw_fd();
    let duplicate = dup(&socket).expect("a duplicate");
    drop(socket);
    let held = only(inode, Scope::Pids(&[id()]));
    assert_ne!(held[0].fd, fd);
    drop(duplicate);
    assert_eq!(only(inode, Scope::Pids(&[id()])), []);
}

#[test]
fn the_lowest_descriptor_is_told() {
    let (socket, inode) = listener();
    let _more: Vec<_> = (0..5).map(|_| dup(&socket).expect("a duplicate")).collect();
    assert_eq!(only(inode, Scope::Pids(&[id()]))[0].fd, socket.as_raw_fd());
}

#[test]
fn a_watch_by_epoll_is_polling_until_it_is_removed() {
    let (socket, inode) = listener();
    let polls = || only(inode, Scope::Pids(&[id()]))[0].polls;
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
    assert!(!polls());
    let data = epoll::EventData::new_u64(u64::MAX);
    epoll::add(&poller, &socket, data, epoll::EventFlags::IN).expect("a watch");
    assert!(polls());
    epoll::modify(&poller, &socket, data, epoll::EventFlags::empty()).expect("a change");
    assert!(!polls());
    epoll::modify(&poller, &socket, data, epoll::EventFlags::IN).expect("a change");
    assert!(polls());
    epoll::delete(&poller, &socket).expect("its end");
    assert!(!polls());
}

#[test]
fn a_thread_in_accept_is_polling() {
    let (socket, inode) = listener();
    let address = socket.local_addr().expect("its address");
    thread::scope(|scope| {
        let accepting = scope.spawn(|| socket.accept());
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut polls = false;
        while !polls && Instant::now() < deadline {
            polls = only(inode, Scope::Pids(&[id()]))[0].polls;
        }
        let _wake = TcpStream::connect(address).expect("a connection");
        drop(accepting.join().expect("the thread"));
        assert!(polls);
    });
    assert!(!only(inode, Scope::Pids(&[id()]))[0].polls);
}

#[test]
fn a_child_that_inherits_it_holds_and_does_not_poll() {
    let (socket, inode) = listener();
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
    let data = epoll::EventData::new_u64(0);
    epoll::add(&poller, &socket, data, epoll::EventFlags::IN).expect("a watch");
    let inherited = dup(&socket).expect("a duplicate");
    fcntl_setfd(&inherited, FdFlags::empty()).expect("the flag");
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .spawn()
        .expect("a child");
    drop(inherited);
    let found = only(inode, Scope::Pids(&[id(), child.id()]));
    drop(child.stdin.take());
    child.wait().expect("its end");
    let told: Vec<_> = found
        .iter()
        .map(|holder| {
            (
                holder.pid,
                holder.comm.as_str(),
                holder.polls,
                holder.opaque,
            )
        })
        .filter(|told| told.0 != id())
        .collect();
    assert_eq!(told, [(child.id(), "cat", false, true)]);
    assert!(
        found
            .iter()
            .any(|holder| holder.pid == id() && holder.polls)
    );
}

#[test]
fn processes_that_are_gone_are_left_out() {
    let (_socket, inode) = listener();
    let mut child = Command::new("true").spawn().expect("a child");
    child.wait().expect("its end");
    let found = only(inode, Scope::Pids(&[child.id(), id(), 0, u32::MAX]));
    assert_eq!(found.len(), 1);
    assert!(only(1, Scope::Pids(&[])).is_empty());
}
