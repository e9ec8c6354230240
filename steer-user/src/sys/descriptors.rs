//! How many files steer may have open at a time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::output::exit::{Exit, Fail};

/// More than `steer attach` has open for one group, but for one more for each worker.
const NEEDED: u64 = 128;

/// Takes as many descriptors as this process may have; fails where even that is too few, before
/// anything is done that could not be undone without them.
pub fn provide() -> Result<(), Fail> {
    let limit = getrlimit(Resource::Nofile);
    let may = limit.maximum.unwrap_or(u64::MAX);
    if may < NEEDED {
        return Err(Fail::new(
            Exit::Failure,
            format!(
                "steer may open {may} files only and needs at least {NEEDED}, and one more for each worker; \
                 raise its limit (ulimit -n, or systemd's LimitNOFILE=)"
            ),
        ));
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where that is refused the limit in force may do.
    setrlimit(Resource::Nofile, raised).ok();
    Ok(())
}
