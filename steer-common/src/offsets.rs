//! Where this kernel keeps the fields that the kernel programs read.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// The offset of a field that this kernel's BTF doesn't have.
pub const MISSING: u32 = u32::MAX;

/// Byte offsets, read from the kernel's BTF when the programs are loaded. If the kernel has no
/// such field, the offset is [`MISSING`], and the signal that needs the field is off.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct KernelOffsets {
    /// `sock.sk_reuseport_cb`
    pub sk_reuseport_cb: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sk_net: u32,
    /// `sock.__sk_common.skc_num`, the local port in host order
    pub sk_num: u32,
    /// `sock.__sk_common.skc_family`
    pub sk_family: u32,
    /// `sock.__sk_common.skc_state`
    pub sk_state: u32,
    /// `sock.__sk_common.skc_cookie`
    pub sk_cookie: u32,
    /// `sock.sk_ack_backlog`
    pub sk_ack_backlog: u32,
    /// `sock.sk_max_ack_backlog`
    pub sk_max_ack_backlog: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`
    pub request_queue_len: u32,
    /// `net.net_cookie`
    pub net_cookie: u32,
    /// `sock_reuseport.num_socks`
    pub reuse_num_socks: u32,
    /// `sock_reuseport.prog`
    pub reuse_prog: u32,
    /// `sock_reuseport.socks`
    pub reuse_socks: u32,
    /// `bpf_prog.aux`
    pub prog_aux: u32,
    /// `bpf_prog_aux.id`
    pub prog_aux_id: u32,
    /// `sock.sk_wq`
    pub sk_wq: u32,
    /// `socket_wq.wait.head`
    pub socket_wq_head: u32,
    /// `wait_queue_entry.entry`
    pub wait_entry: u32,
    /// `wait_queue_entry.private`
    pub wait_private: u32,
    /// `eppoll_entry.wait`
    pub eppoll_wait: u32,
    /// `eppoll_entry.base`
    pub eppoll_base: u32,
    /// `epitem.ep`
    pub epitem_ep: u32,
    /// `eventpoll.wq.head`
    pub eventpoll_head: u32,
    /// `sock.sk_shutdown`
    pub sk_shutdown: u32,
    /// `inet_connection_sock.icsk_accept_queue.rskq_accept_head`
    pub accept_head: u32,
    /// `request_sock.dl_next`
    pub request_next: u32,
    /// `request_sock.sk`
    pub request_sk: u32,
    /// `sock_reuseport.incoming_cpu`, which Linux has from 6.2 on
    pub reuse_incoming_cpu: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `inode.i_ino`
    pub inode_number: u32,
    /// `super_block.s_magic`
    pub sb_magic: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `task_struct.group_leader`
    pub task_leader: u32,
    /// `task_struct.thread_pid`
    pub task_pid: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// `epitem.rdllink`
    pub epitem_link: u32,
    /// `epitem.ffd.file`
    pub epitem_file: u32,
    /// `eventpoll.rdllist`
    pub eventpoll_ready: u32,
    /// `tcp_sock.first_tx_mstamp`: when the data that were acknowledged last were sent or, if
    /// nothing is in flight since, when the first data after those were sent; in microseconds of
    /// CLOCK_MONOTONIC
    pub tcp_first_sent: u32,
    /// `tcp_sock.copied_seq`: the sequence number up to which the process has read
    pub tcp_copied: u32,
    /// `tcp_sock.rcv_nxt`: the sequence number up to which the peer's data have come
    pub tcp_received: u32,
    /// `tcp_sock.bytes_received`: how many bytes have come from the peer, the lower half of the
    /// number
    pub tcp_all_received: u32,
}
map_value!(KernelOffsets, 188);

impl KernelOffsets {
    /// The offsets of a kernel of which nothing is known.
    pub const UNKNOWN: Self = Self {
        sk_reuseport_cb: MISSING,
        sk_net: MISSING,
        sk_num: MISSING,
        sk_family: MISSING,
        sk_state: MISSING,
        sk_cookie: MISSING,
        sk_ack_backlog: MISSING,
        sk_max_ack_backlog: MISSING,
        request_queue_len: MISSING,
        net_cookie: MISSING,
        reuse_num_socks: MISSING,
        reuse_prog: MISSING,
        reuse_socks: MISSING,
        prog_aux: MISSING,
        prog_aux_id: MISSING,
        sk_wq: MISSING,
        socket_wq_head: MISSING,
        wait_entry: MISSING,
        wait_private: MISSING,
        eppoll_wait: MISSING,
        eppoll_base: MISSING,
        epitem_ep: MISSING,
        eventpoll_head: MISSING,
        sk_shutdown: MISSING,
        accept_head: MISSING,
        request_next: MISSING,
        request_sk: MISSING,
        reuse_incoming_cpu: MISSING,
        file_inode: MISSING,
        file_private: MISSING,
        file_dentry: MISSING,
        dentry_name: MISSING,
        inode_sb: MISSING,
        inode_number: MISSING,
        sb_magic: MISSING,
        socket_sk: MISSING,
        task_leader: MISSING,
        task_pid: MISSING,
        pid_level: MISSING,
        pid_numbers: MISSING,
        epitem_link: MISSING,
        epitem_file: MISSING,
        eventpoll_ready: MISSING,
        tcp_first_sent: MISSING,
        tcp_copied: MISSING,
        tcp_received: MISSING,
        tcp_all_received: MISSING,
    };
}
