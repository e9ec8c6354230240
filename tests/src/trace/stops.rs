//! The stops of a traced process.

use std::{io, mem};

/// Why a thread stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// It has ended.
    Ended,
    /// A signal is to be delivered.
    Signal(libc::c_int),
    /// It has begun to execute a program.
    Executes,
    /// It has started a thread or a child.
    Event,
    /// It is about to make one of the system calls that are looked at.
    Enters {
        /// Which.
        number: libc::c_long,
        /// With what.
        args: [u64; 6],
    },
    /// A system call has returned that [`go_on_to_result`] was called for.
    Leaves {
        /// What it returned.
        result: i64,
    },
}

/// Of the calling thread's children only, whatever their kind.
const MINE: libc::c_int = libc::__WALL | libc::__WNOTHREAD;

/// Asks to be traced by the thread that started this process, at the system calls that the filter
/// names. Called between fork and exec.
pub(super) fn trace_me(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the request has no argument that is looked at.
    let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) };
    checked(result)?;
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads one `sock_fprog` and the instructions that it points to, which outlive
    // the call. What runs from here on is as before, but for the stops.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    checked(result)
}

/// Waits for the next stop, or end, of any thread that the calling thread traces. One that has ended
/// stays to be waited for.
pub(super) fn next() -> io::Result<(u32, Stop)> {
    let seen = wait(
        libc::P_ALL,
        0,
        libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT,
    )?;
    // SAFETY: of a child's change of state the kernel fills these in.
    let thread = unsafe { seen.si_pid() } as u32;
    if !matches!(seen.si_code, libc::CLD_TRAPPED | libc::CLD_STOPPED) {
        return Ok((thread, Stop::Ended));
    }
    wait(libc::P_PID, thread, libc::WSTOPPED)?;
    // SAFETY: as above.
    let status = unsafe { seen.si_status() };
    let stop = match (status & 0xff, status >> 8) {
        (signal, 0) if signal == libc::SIGTRAP | 0x80 => system_call(thread)?,
        (_, libc::PTRACE_EVENT_SECCOMP) => system_call(thread)?,
        (_, libc::PTRACE_EVENT_EXEC) => Stop::Executes,
        (signal, 0) => Stop::Signal(signal),
        _ => Stop::Event,
    };
    Ok((thread, stop))
}

/// Waits for a thread that has ended.
pub(super) fn reap(thread: u32) -> io::Result<()> {
    wait(libc::P_PID, thread, libc::WEXITED).map(drop)
}

/// Has system calls told from signals, children traced as well, since they inherit the filter, and
/// all of them killed with their tracer.
pub(super) fn set_options(pid: u32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK;
    request(libc::PTRACE_SETOPTIONS as _, pid, options as usize)
}

/// Lets a stopped thread go on to its next system call that is looked at, with a signal or 0.
pub(super) fn go_on(thread: u32, signal: libc::c_int) -> io::Result<()> {
    unless_gone(request(libc::PTRACE_CONT as _, thread, signal as usize))
}

/// Lets a thread go on that is about to make a system call, until that has returned.
pub(super) fn go_on_to_result(thread: u32) -> io::Result<()> {
    unless_gone(request(libc::PTRACE_SYSCALL as _, thread, 0))
}

/// A thread that was killed in its stop can't go on: its end is what comes next.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Kills a process, also one that is stopped.
pub(super) fn kill(pid: u32) -> io::Result<()> {
    // SAFETY: a system call on numbers. The process is this thread's tracee and not reaped.
    let result = unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    checked(result.into())
}

fn system_call(thread: u32) -> io::Result<Stop> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the thread is stopped, and the kernel writes at most `size` bytes to `info`, which
    // outlives the call.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread as libc::pid_t,
            size,
            &raw mut info,
        )
    };
    checked(result)?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: the kind of stop tells which member of the union is in use.
            let entry = unsafe { info.u.seccomp };
            Stop::Enters {
                number: entry.nr as libc::c_long,
                args: entry.args,
            }
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            Stop::Leaves { result: exit.sval }
        }
        _ => Stop::Event,
    })
}

fn request(request: libc::c_int, thread: u32, data: usize) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the requests used here take a number and touch no memory of this process.
    let result = unsafe { libc::ptrace(request as _, thread as libc::pid_t, nothing, data) };
    checked(result)
}

fn wait(kind: libc::idtype_t, id: u32, options: libc::c_int) -> io::Result<libc::siginfo_t> {
    loop {
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut seen: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: the kernel writes one `siginfo_t`, which outlives the call.
        let result = unsafe { libc::waitid(kind, id, &raw mut seen, options | MINE) };
        match checked(result.into()) {
            Ok(()) => return Ok(seen),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
