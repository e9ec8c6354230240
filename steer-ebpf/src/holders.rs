//! Lists who has the port's sockets open, and who has epoll instances and `io_uring`s.
//!
//! The kernel goes through the descriptors of every process, and each descriptor costs a few
//! reads. By `/proc` each descriptor takes a system call, which is seconds on a host with 200,000
//! sockets.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_seq_write};
use steer_common::event::{FileKind, OpenFile};

use crate::{
    iterator::FileContext as Context,
    kernel::{self, offset},
    members::PORT,
};

/// Magic numbers of the file systems of sockets and of anonymous files.
const SOCKFS: u64 = 0x534f_434b;
const ANONYMOUS: u64 = 0x0904_1934;

/// The first eight bytes of the names of epoll instances and of `io_uring`s.
const EPOLL: u64 = u64::from_ne_bytes(*b"[eventpo");
const IO_URING: u64 = u64::from_ne_bytes(*b"[io_urin");

/// Size of `struct upid` in bytes. Its first field is a process' number.
const UPID: u64 = 16;

#[inline(always)]
pub(crate) fn run(ctx: *mut Context) {
    // SAFETY: the kernel calls the iterator with a valid context.
    let Context { task, fd, file, .. } = unsafe { ctx.read() };
    if task.is_null() || file.is_null() {
        return;
    }
    let Some((kind, inode)) = what(file as u64) else {
        return;
    };
    let Some(pid) = number(task as u64) else {
        return;
    };
    let record = OpenFile {
        pid,
        fd,
        kind: kind as u32,
        reserved: 0,
        inode,
    };
    // SAFETY: `ctx` is the pointer that the iterator was called with.
    let seq = unsafe { Context::seq(ctx) };
    // SAFETY: the record is a value on the stack, of the size that is passed.
    unsafe {
        bpf_seq_write(
            seq,
            (&raw const record).cast_mut().cast(),
            size_of::<OpenFile>() as u32,
        )
    };
}

/// What a file is, and the inode of a socket (0 of other files). None for files that don't matter.
#[inline(always)]
fn what(file: u64) -> Option<(FileKind, u64)> {
    let inode: u64 = kernel::read(file, offset!(file_inode))?;
    let system: u64 = kernel::read(inode, offset!(inode_sb))?;
    match kernel::read::<u64>(system, offset!(sb_magic))? {
        SOCKFS => {
            let socket: u64 = kernel::read(file, offset!(file_private))?;
            let sock: u64 = kernel::read(socket, offset!(socket_sk))?;
            let port: u16 = kernel::read(sock, offset!(sk_num))?;
            if u32::from(port) != PORT.load() {
                return None;
            }
            Some((
                FileKind::Socket,
                kernel::read(inode, offset!(inode_number))?,
            ))
        }
        ANONYMOUS => {
            let entry: u64 = kernel::read(file, offset!(file_dentry))?;
            let name: u64 = kernel::read(entry, offset!(dentry_name))?;
            match kernel::read::<u64>(name, 0)? {
                EPOLL => Some((FileKind::Epoll, 0)),
                IO_URING => Some((FileKind::IoUring, 0)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The number of a task's process in the pid namespace of the task that reads. The kernel goes
/// through the processes of that namespace only.
#[inline(always)]
fn number(task: u64) -> Option<u32> {
    // SAFETY: the helper has no arguments and always succeeds.
    let reader = unsafe { bpf_get_current_task() };
    let own: u64 = kernel::read(reader, offset!(task_pid))?;
    let level: u32 = kernel::read(own, offset!(pid_level))?;
    let leader: u64 = kernel::read(task, offset!(task_leader))?;
    let pid: u64 = kernel::read(leader, offset!(task_pid))?;
    kernel::read(pid + UPID * u64::from(level), offset!(pid_numbers))
}
