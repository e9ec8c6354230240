//! Lists the listeners of a port as the kernel has them: address, cookie, group, attached program.

use aya_ebpf::{Global, bindings::seq_file, helpers::generated::bpf_seq_write};
use bytemuck::Zeroable as _;
use steer_common::event::Member;

use crate::kernel::{self, offset};

const LISTEN: u8 = 10;

/// The port whose listeners are listed, set by the loader before the program is loaded.
#[unsafe(no_mangle)]
static PORT: Global<u32> = Global::new(0);

/// What a `tcp` iterator is called with: `struct bpf_iter__tcp`.
#[repr(C)]
pub(crate) struct Context {
    meta: *const Meta,
    socket: *const u8,
}

/// The start of `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

#[inline(always)]
pub(crate) fn run(ctx: *mut Context) {
    // SAFETY: the kernel calls the iterator with a valid context.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return;
    }
    if let Some(member) = member(socket as u64) {
        // SAFETY: as above.
        let meta = unsafe { (*ctx).meta };
        // SAFETY: the context's metadata is never null.
        let seq = unsafe { (*meta).seq };
        // SAFETY: the record is a value on the stack, of the size that is passed.
        unsafe {
            bpf_seq_write(
                seq,
                (&raw const member).cast_mut().cast(),
                size_of::<Member>() as u32,
            )
        };
    }
}

/// The record of a socket; none for a listener on another port.
#[inline(always)]
fn member(sock: u64) -> Option<Member> {
    let state: u8 = kernel::read(sock, offset!(sk_state))?;
    if state != LISTEN {
        // The kernel lists all listeners first: this record tells the reader to stop.
        return Some(Member::zeroed());
    }
    let port: u16 = kernel::read(sock, offset!(sk_num))?;
    if u32::from(port) != PORT.load() {
        return None;
    }
    let reuse: u64 = kernel::read(sock, offset!(sk_reuseport_cb)).unwrap_or(0);
    let program: u64 = kernel::read(reuse, offset!(reuse_prog)).unwrap_or(0);
    let aux: u64 = kernel::read(program, offset!(prog_aux)).unwrap_or(0);
    let size: u16 = kernel::read(reuse, offset!(reuse_num_socks)).unwrap_or(0);
    Some(Member {
        sock,
        cookie: kernel::read(sock, offset!(sk_cookie)).unwrap_or(0),
        reuse,
        program_id: kernel::read(aux, offset!(prog_aux_id)).unwrap_or(0),
        has_program: u32::from(program != 0),
        group_size: u32::from(size),
        reserved: 0,
    })
}
