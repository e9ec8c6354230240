//! Lists the listeners of a port as the kernel has them: address, cookie, group, attached program,
//! and who waits on the listener.

use aya_ebpf::{Global, btf_maps::Array, helpers::generated::bpf_seq_write, macros::btf_map};
use bytemuck::Zeroable as _;
use steer_common::event::{Listing, Member};

use crate::{
    iterator::Context,
    kernel::{self, offset},
    queue,
};

const LISTEN: u8 = 10;

/// The port that an iterator is about. The loader sets it before it loads the program.
#[unsafe(no_mangle)]
pub(crate) static PORT: Global<u32> = Global::new(0);

#[btf_map]
static LISTING: Array<Listing, 1> = Array::new();

/// Returned to the kernel, this goes on with the next socket.
const NEXT: i32 = 0;
/// Returned to the kernel, this ends the read, and drops what was written for this socket.
const END: i32 = 1;

#[inline(always)]
pub(crate) fn run(ctx: *mut Context) -> i32 {
    // SAFETY: the kernel calls the iterator with a valid context.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return NEXT;
    }
    let Some(member) = member(socket as u64) else {
        return NEXT;
    };
    let Some(listing) = LISTING.get_ptr_mut(0) else {
        return NEXT;
    };
    // SAFETY: `listing` points to a map value, which is valid as long as the program runs. Nobody
    // else writes to the value while a list is read.
    let listing = unsafe { &mut *listing };
    let found = listing.found + 1;
    if found == listing.wanted {
        listing.last = member;
        listing.found = found;
        return END;
    }
    // SAFETY: `ctx` is the pointer that the iterator was called with.
    let seq = unsafe { Context::seq(ctx) };
    // SAFETY: the record is a value on the stack, of the size that is passed.
    let written = unsafe {
        bpf_seq_write(
            seq,
            (&raw const member).cast_mut().cast(),
            size_of::<Member>() as u32,
        )
    };
    // If the reader's buffer is full, the kernel calls the program for the same socket again.
    if written == 0 {
        listing.found = found;
    }
    NEXT
}

/// The record of a socket. None if the socket is a listener on another port.
#[inline(always)]
fn member(sock: u64) -> Option<Member> {
    let state: u8 = kernel::read(sock, offset!(sk_state))?;
    if state != LISTEN {
        // The kernel lists all listeners first. So this socket ends the listeners, and its record
        // tells the reader to stop.
        return Some(Member::zeroed());
    }
    if !is_on_port(sock) {
        return None;
    }
    let reuse: u64 = kernel::read(sock, offset!(sk_reuseport_cb)).unwrap_or(0);
    let program: u64 = kernel::read(reuse, offset!(reuse_prog)).unwrap_or(0);
    let aux: u64 = kernel::read(program, offset!(prog_aux)).unwrap_or(0);
    let size: u16 = kernel::read(reuse, offset!(reuse_num_socks)).unwrap_or(0);
    let queue = queue_of(sock).unwrap_or_default();
    Some(Member {
        sock,
        cookie: kernel::read(sock, offset!(sk_cookie)).unwrap_or(0),
        reuse,
        program_id: kernel::read(aux, offset!(prog_aux_id)).unwrap_or(0),
        has_program: u32::from(program != 0),
        group_size: u32::from(size),
        loops: queue.loops,
        threads: queue.threads,
        reserved: 0,
        head: queue.head,
        entry: queue.entry,
        event_loop: queue.event_loop,
    })
}

/// Whether a socket's local port is the one that the iterator is about.
#[inline(always)]
pub(crate) fn is_on_port(sock: u64) -> bool {
    kernel::read::<u16>(sock, offset!(sk_num)).is_some_and(|port| u32::from(port) == PORT.load())
}

/// Who waits on a listener.
#[derive(Default)]
struct Queue {
    loops: u32,
    threads: u32,
    head: u64,
    entry: u64,
    event_loop: u64,
}

/// How many entries of a wait queue are counted. All that matters is whether there are more than
/// one.
const MANY: u32 = 4;

#[inline(always)]
fn queue_of(sock: u64) -> Option<Queue> {
    let head = queue::head(sock)?;
    let first = queue::next(head)?;
    let mut found = Queue {
        head,
        ..Queue::default()
    };
    let mut entry = first;
    for _ in 0..MANY {
        if entry == head {
            break;
        }
        if queue::is_thread(entry)? {
            found.threads += 1;
        } else {
            found.loops += 1;
        }
        entry = queue::next(entry)?;
    }
    if first != head {
        found.entry = first;
        found.event_loop = queue::event_loop(first)?;
    }
    Some(found)
}
