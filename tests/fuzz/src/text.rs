//! Text of the kernel, of `/proc`, and of steer's own files and pins, which anybody with their owner's
//! rights could have written: every parser gets the same.

use std::{collections::BTreeSet, iter};

use steer_user::{
    kernel::{kernel_version, lockdown},
    output::escape,
    state::{lock, pins},
    steering::{plan, reload},
    survey::proc::{blocked, epoll},
    sys::procfs::{self, number},
};

/// Events that tell of a connection: EPOLLIN, EPOLLRDNORM, EPOLLONESHOT.
const READS: u32 = 0x1 | 0x40 | 1 << 30;
const POLLIN: i16 = 0x1;
const POLLRDNORM: i16 = 0x40;

pub(crate) fn check(input: &[u8]) {
    // Numbers that the input decides.
    let mut seed = [0; 8];
    for (byte, value) in seed.iter_mut().zip(input) {
        *byte = *value;
    }
    let seed = u64::from_ne_bytes(seed);
    let text = String::from_utf8_lossy(input);
    links(input, seed);
    fdinfo(&text, seed);
    stat(&text, seed);
    syscall(&text, seed);
    poll_set(input, seed);
    release(&text, seed);
    locked_down(&text);
    names(input, seed);
    locks(&text, seed);
    answers(&text, seed);
    shown(input);
}

/// `/proc/PID/fd/N`, and the names of processes and descriptors.
fn links(input: &[u8], seed: u64) {
    if let Some(inode) = procfs::socket_inode(input) {
        assert!(ends_in_number(input, b"socket:[", inode));
        assert!(input.ends_with(b"]"));
    }
    let link = format!("socket:[{seed}]");
    assert_eq!(procfs::socket_inode(link.as_bytes()), Some(seed));
    if let Some(pid) = number::<u32>(input) {
        assert!(ends_in_number(input, b"", pid.into()));
    }
}

/// Digits after a prefix, and their value; what follows them doesn't matter.
fn ends_in_number(text: &[u8], prefix: &[u8], value: u64) -> bool {
    let rest = text.strip_prefix(prefix).unwrap_or_default();
    let mut digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    let sum = digits.try_fold(0_u64, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    rest.first().is_some_and(u8::is_ascii_digit) && sum == Some(value)
}

/// `/proc/PID/fdinfo/N` of an epoll instance.
fn fdinfo(text: &str, seed: u64) {
    let before: Vec<u64> = epoll::watched_inodes(text).collect();
    assert!(before.len() <= text.lines().count());
    // A line as the kernel writes it is read whatever stands before.
    let (events, inode) = (seed as u32, seed >> 7);
    let line = format!(
        "\ntfd: {:8} events: {events:8x} data: {seed:16x}  pos:0 ino:{inode:x} sdev:8\n",
        7
    );
    let mut expected = before;
    expected.extend((events & READS != 0).then_some(inode));
    let after: Vec<u64> = epoll::watched_inodes(&format!("{text}{line}")).collect();
    assert_eq!(after, expected);
}

/// `/proc/PID/stat`: the name of the process may be anything.
fn stat(text: &str, seed: u64) {
    let _start = procfs::start_time(text);
    let fields = iter::repeat_n("1", 18).collect::<Vec<_>>().join(" ");
    let line = format!("7 ({text}) S {fields} {seed} 1 2\n");
    assert_eq!(procfs::start_time(&line), Some(seed));
}

/// `/proc/PID/task/TID/syscall`.
fn syscall(text: &str, seed: u64) {
    if let Some(call) = blocked::parse(text) {
        let mut words = text.split_ascii_whitespace();
        assert_eq!(words.next().map(str::parse), Some(Ok(call.number)));
    }
    let arguments = [seed, !seed, seed >> 32];
    let [a, b, c] = arguments;
    let number = i64::from(seed as u16);
    let line = format!("{number} {a:#x} {b:#x} {c:#x} 0x0 0x0 0x0 0x7ffc 0x7f00\n");
    assert_eq!(
        blocked::parse(&line),
        Some(blocked::Call { number, arguments })
    );
}

/// The pollfds in a process's memory.
fn poll_set(input: &[u8], seed: u64) {
    let reads: BTreeSet<i32> = input
        .chunks_exact(8)
        .filter_map(|entry| {
            let (fd, rest) = entry.split_first_chunk()?;
            let events = i16::from_ne_bytes(*rest.first_chunk()?);
            (events & (POLLIN | POLLRDNORM) != 0).then_some(i32::from_ne_bytes(*fd))
        })
        .collect();
    for fd in reads.iter().copied().chain([seed as i32, 0, 3, -1]) {
        assert_eq!(blocked::in_poll_set(input, fd), reads.contains(&fd), "{fd}");
    }
}

/// `/proc/sys/kernel/osrelease`.
fn release(text: &str, seed: u64) {
    let _version = kernel_version::parse(text);
    let (major, minor) = (seed as u32, (seed >> 32) as u32);
    // What follows a version is its distribution's.
    let version = kernel_version::parse(&format!("{major}.{minor}-{text}"));
    assert_eq!(version, Some((major, minor)));
}

/// `/sys/kernel/security/lockdown`.
fn locked_down(text: &str) {
    let confidential = text
        .split_ascii_whitespace()
        .any(|mode| mode == "[confidentiality]");
    assert_eq!(lockdown::is_confidential(text), confidential, "{text:?}");
}

/// Names of directories of pins: no two of them mean the same.
fn names(input: &[u8], seed: u64) {
    for prefix in ["net-", "tcp-", "group-"] {
        if let Some(number) = pins::number_in(input, prefix) {
            assert_eq!(format!("{prefix}{number}").as_bytes(), input);
        }
        let name = format!("{prefix}{seed}");
        assert_eq!(pins::number_in(name.as_bytes(), prefix), Some(seed));
    }
}

/// The kernel's list of locks, and the files of the locks of earlier steers.
fn locks(text: &str, seed: u64) {
    let device = (seed as u32 % 4, (seed >> 32) as u32 % 64);
    if let Some(pid) = lock::holder_in(text, device, seed % 8) {
        let names = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            line.contains("FLOCK") && words.any(|word| word.parse() == Ok(pid))
        };
        assert!(text.lines().any(names));
    }
    let line = format!(
        "{text}\n1: FLOCK  ADVISORY  WRITE {} {:02x}:{:02x}:{seed} 0 EOF\n",
        seed as u32, device.0, device.1
    );
    assert!(lock::holder_in(&line, device, seed).is_some());
}

/// What a file says that is asked whether it can take over.
fn answers(text: &str, seed: u64) {
    if let Some(layout) = reload::layout_in(text) {
        assert_eq!(text, reload::answer_with(layout));
    }
    let layout = seed as u32;
    assert_eq!(
        reload::layout_in(&reload::answer_with(layout)),
        Some(layout)
    );
}

/// Names of processes, and how they are shown.
fn shown(input: &[u8]) {
    let name = procfs::comm_in(input);
    let comm = plan::comm(&name);
    assert!(name.as_bytes().starts_with(comm.trim_ascii_end()) || comm.contains(&0));
    let shown = escape::foreign(input);
    assert!(shown.chars().count() <= escape::LIMIT + 1);
    assert!(!shown.chars().any(char::is_control));
    if !shown.ends_with('…') {
        assert_eq!(unescaped(&shown), input, "{shown}");
    }
}

/// The bytes that are shown as this.
fn unescaped(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown.chars();
    while let Some(character) = rest.next() {
        let character = match (character, character == '\\') {
            (other, false) => other,
            (_, true) => match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                Some('u') => {
                    let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    let number = u32::from_str_radix(&digits, 16).expect("a number");
                    char::from_u32(number).expect("a character")
                }
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&digits, 16).expect("a byte"));
                    continue;
                }
                other => panic!("an unknown escape {other:?} in {shown}"),
            },
        };
        bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    bytes
}
