//! Where this kernel has the fields that the kernel programs read.

use std::{fs, io};

use steer_common::offsets::{KernelOffsets, MISSING};

use crate::kernel::btf::{Btf, BtfError};

const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Why steer knows no offset at all.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`, or sysfs isn't mounted.
    #[error("the kernel's type information (BTF) in {PATH} can't be read")]
    Unreadable(#[source] io::Error),
    /// The file isn't BTF, or steer can't read it.
    #[error("the kernel's type information (BTF) in {PATH} can't be understood")]
    Malformed(#[source] BtfError),
}

/// Reads the offsets from the running kernel's BTF. This takes a few milliseconds.
///
/// A field that the kernel doesn't have is [`MISSING`].
///
/// Minimum kernel version: 5.4, built with `CONFIG_DEBUG_INFO_BTF`.
///
/// # Errors
/// Only if there is no BTF, or if it can't be read.
pub fn read() -> Result<KernelOffsets, OffsetsError> {
    let bytes = fs::read(PATH).map_err(OffsetsError::Unreadable)?;
    let btf = Btf::parse(bytes).map_err(OffsetsError::Malformed)?;
    Ok(of(&btf))
}

/// The offsets in a kernel that has these types.
pub fn of(btf: &Btf) -> KernelOffsets {
    let field = |name, path: &[&str]| btf.field(name, path).unwrap_or(MISSING);
    let sock = |path: &[&str]| field("sock", path);
    KernelOffsets {
        sk_reuseport_cb: sock(&["sk_reuseport_cb"]),
        sk_net: sock(&["__sk_common", "skc_net", "net"]),
        sk_num: sock(&["__sk_common", "skc_num"]),
        sk_family: sock(&["__sk_common", "skc_family"]),
        sk_state: sock(&["__sk_common", "skc_state"]),
        sk_cookie: sock(&["__sk_common", "skc_cookie"]),
        sk_ack_backlog: sock(&["sk_ack_backlog"]),
        sk_max_ack_backlog: sock(&["sk_max_ack_backlog"]),
        request_queue_len: field("inet_connection_sock", &["icsk_accept_queue", "qlen"]),
        net_cookie: field("net", &["net_cookie"]),
        reuse_num_socks: field("sock_reuseport", &["num_socks"]),
        reuse_prog: field("sock_reuseport", &["prog"]),
        reuse_socks: field("sock_reuseport", &["socks"]),
        prog_aux: field("bpf_prog", &["aux"]),
        prog_aux_id: field("bpf_prog_aux", &["id"]),
        sk_wq: sock(&["sk_wq"]),
        socket_wq_head: field("socket_wq", &["wait", "head"]),
        wait_entry: field("wait_queue_entry", &["entry"]),
        wait_private: field("wait_queue_entry", &["private"]),
        eppoll_wait: field("eppoll_entry", &["wait"]),
        eppoll_base: field("eppoll_entry", &["base"]),
        epitem_ep: field("epitem", &["ep"]),
        eventpoll_head: field("eventpoll", &["wq", "head"]),
        sk_shutdown: sock(&["sk_shutdown"]),
        accept_head: field(
            "inet_connection_sock",
            &["icsk_accept_queue", "rskq_accept_head"],
        ),
        request_next: field("request_sock", &["dl_next"]),
        request_sk: field("request_sock", &["sk"]),
        reuse_incoming_cpu: field("sock_reuseport", &["incoming_cpu"]),
        file_inode: field("file", &["f_inode"]),
        file_private: field("file", &["private_data"]),
        file_dentry: field("file", &["f_path", "dentry"]),
        dentry_name: field("dentry", &["d_name", "name"]),
        inode_sb: field("inode", &["i_sb"]),
        inode_number: field("inode", &["i_ino"]),
        sb_magic: field("super_block", &["s_magic"]),
        socket_sk: field("socket", &["sk"]),
        task_leader: field("task_struct", &["group_leader"]),
        task_pid: field("task_struct", &["thread_pid"]),
        pid_level: field("pid", &["level"]),
        pid_numbers: field("pid", &["numbers"]),
        epitem_link: field("epitem", &["rdllink"]),
        epitem_file: field("epitem", &["ffd", "file"]),
        eventpoll_ready: field("eventpoll", &["rdllist"]),
        tcp_first_sent: field("tcp_sock", &["first_tx_mstamp"]),
        tcp_copied: field("tcp_sock", &["copied_seq"]),
        tcp_received: field("tcp_sock", &["rcv_nxt"]),
        tcp_all_received: field("tcp_sock", &["bytes_received"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_every_field() {
        let found = read().expect("the kernel's BTF");
        let known = KernelOffsets {
            // Linux has this field from 6.2 on.
            reuse_incoming_cpu: 0,
            ..found
        };
        let words: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&known));
        assert!(
            words.iter().all(|offset| *offset != MISSING),
            "a field is missing: {found:?}"
        );
        // These have been part of the ABI of struct sock_common since long before BTF.
        assert_eq!(found.sk_num, 14);
        assert_eq!(found.sk_family, 16);
        assert_eq!(found.sk_state, 18);
        assert_eq!(found.reuse_num_socks % 2, 0);
        assert_eq!(found.sk_cookie % 8, 0);
    }
}
