//! Programs that do nothing. What the kernel's statistics say of them is the floor of what they say
//! of any other: taking the time twice costs something too.

use std::{
    fs, io,
    net::TcpListener,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use steer_tests::bpf::bpf;

/// `BPF_PROG_LOAD`
const PROG_LOAD: libc::c_int = 5;
/// `BPF_RAW_TRACEPOINT_OPEN`
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
/// `BPF_PROG_TYPE_RAW_TRACEPOINT`
const RAW_TRACEPOINT: u32 = 17;
/// `BPF_PROG_TYPE_SK_REUSEPORT`
const SK_REUSEPORT: u32 = 21;

/// r0 = 1; exit. Of an SK_REUSEPORT program that is SK_PASS: the kernel's hash chooses.
const INSTRUCTIONS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// A program that returns at once, attached until it is dropped.
#[derive(Debug)]
pub(crate) struct Trivial {
    /// Its id.
    pub(crate) id: u32,
    /// Keeps it loaded or attached.
    _descriptor: OwnedFd,
}

impl Trivial {
    /// Attaches one where steer's `select` would be: to the group of a listener.
    pub(crate) fn on_group(listener: &TcpListener) -> anyhow::Result<Self> {
        let program = load(SK_REUSEPORT)?;
        let descriptor = program.as_raw_fd();
        // SAFETY: both descriptors are open, and the pointer and the length are those of one C int
        // that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_EBPF,
                (&raw const descriptor).cast(),
                size_of_val(&descriptor) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("failed to attach to the group");
        }
        Ok(Self {
            id: id(&program)?,
            _descriptor: program,
        })
    }

    /// Attaches one to a tracepoint.
    pub(crate) fn on_tracepoint(tracepoint: &str) -> anyhow::Result<Self> {
        let program = load(RAW_TRACEPOINT)?;
        let name = std::ffi::CString::new(tracepoint)?;
        let attr = OpenAttr {
            name: name.as_ptr() as u64,
            prog_fd: program.as_raw_fd() as u32,
            reserved: 0,
        };
        let link = open(RAW_TRACEPOINT_OPEN, &attr)
            .with_context(|| format!("failed to attach to {tracepoint}"))?;
        Ok(Self {
            id: id(&program)?,
            _descriptor: link,
        })
    }
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// `union bpf_attr` as `BPF_RAW_TRACEPOINT_OPEN` reads it.
#[repr(C)]
struct OpenAttr {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

fn load(kind: u32) -> anyhow::Result<OwnedFd> {
    let license = c"GPL";
    let attr = LoadAttr {
        prog_type: kind,
        insn_cnt: INSTRUCTIONS.len() as u32,
        insns: INSTRUCTIONS.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    open(PROG_LOAD, &attr).context("failed to load a program that does nothing")
}

/// The id of a loaded program.
fn id(program: &OwnedFd) -> anyhow::Result<u32> {
    let file = format!("/proc/thread-self/fdinfo/{}", program.as_raw_fd());
    fs::read_to_string(&file)?
        .lines()
        .find_map(|line| line.strip_prefix("prog_id:"))
        .and_then(|id| id.trim().parse().ok())
        .with_context(|| format!("no prog_id in {file}"))
}

fn open(command: libc::c_int, attr: &impl Sized) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attr)?;
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
