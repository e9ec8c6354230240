//! How many files steer may have open at a time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::output::exit::{Exit, Fail};

/// How many files steer must be allowed to open. `steer attach` has fewer open for one group,
/// apart from one for each worker.
const NEEDED: u64 = 128;

/// Raises this process's limit of open files as far as allowed.
///
/// # Errors
/// If even that is too few. This is checked before steer does anything that it couldn't undo
/// without files.
pub fn provide() -> Result<(), Fail> {
    let limit = getrlimit(Resource::Nofile);
    let may = limit.maximum.unwrap_or(u64::MAX);
    if may < NEEDED {
        return Err(Fail::new(
            Exit::Failure,
            format!(
                "the limit of open files is {may}, and steer needs at least {NEEDED}, and one more for each \
                 worker; raise the limit (ulimit -n, or systemd's LimitNOFILE=)"
            ),
        ));
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If the kernel refuses this, the present limit may do.
    setrlimit(Resource::Nofile, raised).ok();
    Ok(())
}
