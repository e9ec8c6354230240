//! steer as it runs in a container.

use std::process::Command;

use crate::steer::binary;

/// A shell in a pid namespace of its own, which ends with it. The script has steer's file as `$1`.
///
/// # Errors
/// When there is no steer.
pub fn in_pid_namespace(script: &str) -> anyhow::Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", script, "sh"]).arg(binary()?);
    Ok(command)
}
