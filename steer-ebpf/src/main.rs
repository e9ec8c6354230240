//! The kernel programs of steer.
//!
//! - `select` (SK_REUSEPORT) chooses the listener of a new connection. `migrate` is the same
//!   program and is also asked where the connections of a listener that closes go.
//! - `track` (tracepoint `inet_sock_set_state`) counts connections and reports listeners.
//!   `track_again` (same tracepoint) counts what interrupts `track`. `destroyed` (tracepoint
//!   `tcp_destroy_sock`) reports closed listeners.
//! - `reads` (tracepoint `tcp_rcv_space_adjust`) follows which job each worker has in hand, and
//!   learns how long jobs took that have ended.
//! - `members` (iterator `tcp`) lists the listeners of a port with their groups.
//! - `holders` (iterator `task_file`) lists who has the port's sockets open.
//! - `recount` (iterator `tcp`) lists open connections, and tags and counts those that are older
//!   than steer.
//!
//! Each hook is thin. The policies of `steer-common` decide what to choose. If the program is in
//! any doubt, the kernel's own hash chooses.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "this target has no other atomic addition")]

mod atomic;
mod attachments;
mod client;
mod events;
mod group;
mod groups;
mod handed_over;
mod holders;
mod iterator;
mod jobs;
mod kernel;
mod known;
mod learned;
mod members;
mod migration;
mod once;
mod progress;
mod queue;
mod ready;
mod recount;
mod repeat;
mod select;
mod slots;
mod sockets;
mod tags;
mod tcp;
mod tier;
mod track;
mod turns;
mod void;

use aya_ebpf::{
    bindings::sk_action::SK_PASS,
    macros::{btf_tracepoint, sk_reuseport},
    programs::{BtfTracePointContext, SkReuseportContext},
};

/// Chooses a listener of the group. If the program returns SK_PASS and has selected nothing, the
/// kernel's own hash chooses.
#[sk_reuseport]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn select(ctx: SkReuseportContext) -> u32 {
    select::run(&ctx);
    SK_PASS
}

/// [`select`], which is also asked where the connections of a listener that closes go.
#[sk_reuseport(migrate)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn migrate(ctx: SkReuseportContext) -> u32 {
    select::run(&ctx);
    SK_PASS
}

/// Follows every TCP socket's changes of state.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn track(ctx: BtfTracePointContext) -> i32 {
    track::run(&ctx);
    0
}

/// Counts what [`track`] misses, in the same way. If a tracing program is running already on a
/// processor, the kernel doesn't call it there again (from Linux 6.2 on). An interrupt finds at
/// most one of [`track`] and this program running, and the other one counts.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn track_again(ctx: BtfTracePointContext) -> i32 {
    track::run_again(&ctx);
    0
}

/// Reports closed listeners, and counts ends that neither [`track`] nor [`track_again`] was called
/// for.
#[btf_tracepoint(function = "tcp_destroy_sock")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn destroyed(ctx: BtfTracePointContext) -> i32 {
    track::run_destroyed(&ctx);
    0
}

/// Follows what workers read from, and so which job each of them has in hand.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the one that aya's attribute calls"
)]
fn reads(ctx: BtfTracePointContext) -> i32 {
    jobs::run(&ctx);
    0
}

/// Writes a record for each listener of the port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn members(ctx: *mut iterator::Context) -> i32 {
    members::run(ctx)
}

/// Writes a record for each open descriptor of a socket of the port, of an epoll instance and of
/// an `io_uring`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn holders(ctx: *mut iterator::FileContext) -> i32 {
    holders::run(ctx);
    0
}

/// Writes the tag of each open connection of a worker. If a connection isn't counted yet, counts
/// it first.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn recount(ctx: *mut iterator::Context) -> i32 {
    recount::run(ctx);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program that can reach this loop.
    loop {}
}

/// The helpers that these programs call are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
