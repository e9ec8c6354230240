//! The system calls that a traced program is looked at for.

/// Commands of bpf(2) that change what others see: elements of maps, pins, attachments.
const CHANGES: [(u64, &str); 6] = [
    (2, "BPF_MAP_UPDATE_ELEM"),
    (3, "BPF_MAP_DELETE_ELEM"),
    (6, "BPF_OBJ_PIN"),
    (17, "BPF_RAW_TRACEPOINT_OPEN"),
    (26, "BPF_MAP_UPDATE_BATCH"),
    (28, "BPF_LINK_CREATE"),
];

/// `BPF_PROG_LOAD`
const PROG_LOAD: u64 = 5;

/// The same of setsockopt(2).
const OPTIONS: [(u64, &str); 3] = [
    (
        libc::SO_ATTACH_REUSEPORT_CBPF as u64,
        "SO_ATTACH_REUSEPORT_CBPF",
    ),
    (
        libc::SO_ATTACH_REUSEPORT_EBPF as u64,
        "SO_ATTACH_REUSEPORT_EBPF",
    ),
    (68, "SO_DETACH_REUSEPORT_BPF"),
];

/// Others that always do.
const ALWAYS: [(u64, &str); 7] = [
    (libc::SYS_mkdirat as u64, "mkdirat"),
    (libc::SYS_unlinkat as u64, "unlinkat"),
    (libc::SYS_renameat as u64, "renameat"),
    (libc::SYS_renameat2 as u64, "renameat2"),
    (libc::SYS_mount as u64, "mount"),
    (libc::SYS_umount2 as u64, "umount2"),
    (libc::SYS_shutdown as u64, "shutdown"),
];

/// The older calls that not every architecture has.
#[cfg(target_arch = "x86_64")]
const OLD: [(u64, &str); 4] = [
    (libc::SYS_mkdir as u64, "mkdir"),
    (libc::SYS_rmdir as u64, "rmdir"),
    (libc::SYS_unlink as u64, "unlink"),
    (libc::SYS_rename as u64, "rename"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [(u64, &str); 0] = [];

/// Those that ask for the time.
#[cfg(target_arch = "x86_64")]
const TIMES: [libc::c_long; 3] = [
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const TIMES: [libc::c_long; 2] = [libc::SYS_clock_gettime, libc::SYS_gettimeofday];

/// What a system call does that outlives its process, if anything. Locks and descriptors (`fcntl`,
/// `pidfd_getfd`) don't: killed right before or after them, a process leaves the same.
pub(super) fn step(number: libc::c_long, args: &[u64; 6]) -> Option<&'static str> {
    match number {
        libc::SYS_bpf => name(&CHANGES, args[0]),
        libc::SYS_setsockopt if args[1] == libc::SOL_SOCKET as u64 => name(&OPTIONS, args[2]),
        libc::SYS_openat if args[2] & libc::O_CREAT as u64 != 0 => Some("openat"),
        _ => name(&ALWAYS, number as u64).or_else(|| name(&OLD, number as u64)),
    }
}

fn name(table: &[(u64, &'static str)], number: u64) -> Option<&'static str> {
    let found = table.iter().find(|(other, _)| *other == number);
    found.map(|(_, name)| *name)
}

/// A filter that stops at the system calls that are looked at: none more, since a
/// stop takes longer than a call.
pub(super) fn filter(times: bool) -> Vec<libc::sock_filter> {
    let jump = |value: u64, then: u8, otherwise: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: then,
        jf: otherwise,
        k: value as u32,
    };
    let load = |offset: usize| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset as u32,
    };
    let give = |action: u32| libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: action,
    };
    let argument = |index: usize| {
        let low = if cfg!(target_endian = "big") { 4 } else { 0 };
        std::mem::offset_of!(libc::seccomp_data, args) + 8 * index + low
    };
    let trace = give(libc::SECCOMP_RET_TRACE);
    let mut always = vec![libc::SYS_bpf as u64, libc::SYS_setsockopt as u64];
    always.extend(ALWAYS.iter().chain(&OLD).map(|(call, _)| *call));
    if times {
        always.extend(TIMES.map(|call| call as u64));
    }
    let mut filter = vec![load(std::mem::offset_of!(libc::seccomp_data, nr))];
    for call in always {
        filter.extend([jump(call, 0, 1), trace]);
    }
    filter.extend([
        jump(libc::SYS_openat as u64, 0, 3),
        load(argument(2)),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::O_CREAT as u32,
        },
        trace,
        give(libc::SECCOMP_RET_ALLOW),
    ]);
    filter
}

/// Whether a system call loads a program into the kernel.
pub(super) fn loads_program(number: libc::c_long, args: &[u64; 6]) -> bool {
    number == libc::SYS_bpf && args[0] == PROG_LOAD
}

/// Whether a system call asks for the time.
pub(super) fn asks_time(number: libc::c_long) -> bool {
    TIMES.contains(&number)
}
