//! Why a command refuses what it is asked for. Where there are several words, the message has all of them.

use super::words;
use crate::texts::status;

/// Capabilities that an ordinary user lacks.
pub const NOT_ROOT: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "sudo"];

/// Nobody listens on the port.
pub fn nobody_listens(port: u16) -> Vec<String> {
    words([&"listens", &port])
}

/// Nobody listens there as `--bind` wants it.
pub fn nobody_listens_at(address: &str, port: u16) -> Vec<String> {
    words([&address, &port])
}

/// No listener of the port is bound to the device.
pub fn no_device(device: &str) -> String {
    format!("device {device}")
}

/// No listener of the port has the address.
pub fn no_address(address: &str) -> String {
    format!("address {address}")
}

/// `--bind` names a device that isn't there.
pub fn bind_names(device: &str) -> String {
    format!("--bind names {device}")
}

/// How a device is given to `--bind`.
pub const DEVICE_EXAMPLE: &str = "%eth0";

/// Nothing is attached to the port.
pub fn nothing_attached(port: u16) -> Vec<String> {
    words([&port])
}

/// The same in full.
pub fn not_steered(port: u16) -> String {
    format!("tcp port {port} is not steered")
}

/// A listener alone on its port.
pub fn without_reuseport(port: u16, pid: u32) -> Vec<String> {
    words([&REUSEPORT, &port, &pid])
}

/// What such a listener lacks.
pub const REUSEPORT: &str = "SO_REUSEPORT";

/// nginx with one listener for all workers.
pub const NGINX: [&str; 3] = ["nginx", REUSEPORT, "listen ... reuseport"];

/// Several processes poll one listener; that may pass.
pub fn several_processes(port: u16, pids: [u32; 2]) -> Vec<String> {
    words([&port, &pids[0], &pids[1], &status::SEVERAL_PROCESSES])
}

/// The same where steer has waited for its end.
pub fn several_processes_still(port: u16, pids: [u32; 2]) -> Vec<String> {
    words([&port, &pids[0], &pids[1], &"isn't steered after"])
}

/// A listener of Multipath TCP.
pub fn multipath(port: u16) -> Vec<String> {
    words([&"MPTCP", &port, &"GODEBUG=multipathtcp=0"])
}

/// Another steer follows the port.
pub fn held(port: u16, pid: u32) -> Vec<String> {
    words([&pid, &port])
}

/// The same where that is of an earlier version.
pub fn held_by_earlier(pid: u32) -> String {
    format!("steered by process {pid}, an earlier version")
}

/// What an earlier version pinned can't be read.
pub const BY_EARLIER: &str = "by an earlier version of steer";

/// What a later version pinned can't be read.
pub fn layout(layout: u32) -> String {
    format!("layout {layout}")
}

/// Another tool's program is attached.
pub fn another_program(port: u16) -> Vec<String> {
    words([&port, &"--replace"])
}

/// All listeners are in another tool's map.
pub fn in_another_map(port: u16) -> Vec<String> {
    words([&port, &"map"])
}

/// The program is that of a steer which can't be seen.
pub const BY_STEER_ELSEWHERE: &str = "by a steer whose pins aren't in this bpffs";

/// A port is steered by a steer that has its pins in another mount namespace.
pub fn steered_by(port: u16) -> String {
    format!("tcp 127.0.0.1:{port} is steered by")
}

/// Where that is.
pub const ANOTHER_MOUNT_NAMESPACE: &str = "another mount namespace";

/// The same in fewer words.
pub const MOUNT_NAMESPACE: &str = "mount namespace";

/// The steer to be ended isn't seen.
pub const ANOTHER_PID_NAMESPACE: &str = "another pid namespace";

/// No process with a listener is seen: where it would be.
pub const IN_HOSTS_PID_NAMESPACE: &str = "in the host's pid namespace";

/// The port is steered by a program whose steer was killed and whose pins are gone.
pub const STEER_IS_GONE: &str = "of a steer that is gone, and so are its pins";

/// UDP sockets have the port.
pub const UDP: &str = "UDP sockets are bound to that port, and steer steers TCP only";

/// The same in a word.
pub const UDP_WORD: &str = "UDP";

/// The kernel has no BTF.
pub const NO_BTF: [&str; 1] = ["BTF"];

/// The kernel can't list sockets.
pub const NO_SOCK_DIAG: [&str; 2] = ["list the TCP sockets", "modprobe tcp_diag"];

/// The kernel is locked down.
pub const LOCKED_DOWN: &str = "locked down";

/// The kernel is too old: which it is, and which it must be.
pub fn old_kernel(release: &str) -> Vec<String> {
    words([&release, &"older than 5.14"])
}

/// The directory of pins belongs to somebody else.
pub fn belongs_to(uid: u32) -> String {
    format!("belongs to user {uid}")
}

/// Others may write to it.
pub fn mode(mode: u32) -> String {
    format!("mode {mode:o}")
}

/// It is a symbolic link.
pub const A_LINK: &str = "it is a link";

/// Whoever may write to the bpffs could put another one in its place.
pub const BPFFS_IS_NOT: &str = "/sys/fs/bpf is not";

/// `--netns` names a file that isn't there.
pub fn no_file(path: &str) -> String {
    format!("{path} doesn't exist")
}

/// `--netns` names a file of another kind.
pub const NO_NAMESPACE: &str = "is no network namespace";

/// How `--netns` takes a process.
pub const NAMESPACE_OF_PID: &str = "pid:N";

/// No worker of the port has this pid.
pub fn no_process(pid: u32) -> String {
    format!("process {pid} has no")
}

/// No worker of the port has this slot.
pub fn no_slot(slot: u32) -> String {
    format!("slot {slot} has no")
}

/// A wrong command line names the option, if there is one, and the value.
pub fn usage(option: &str, value: &str) -> Vec<String> {
    words([&value, &option])
}

/// The option that says for which port.
pub const PORT_OPTION: [&str; 1] = ["--port"];

/// The option that says for which worker.
pub const PID_OPTION: &str = "--pid";

/// `evict` takes a word of confirmation.
pub const EVICT_UNASKED: &str = "--yes";

/// `evict` would lose connections: nobody would get them.
pub const EVICT_NOBODY: &str = "no other worker";

/// `evict` would lose connections: they don't move.
pub const EVICT_UNMOVED: &str = "migrate";
