//! Loads programs, and says why if the kernel doesn't load one.

use std::io;

use aya::programs::ProgramError;

use crate::output::{
    exit::{Exit, Fail},
    supervisor,
};

/// After how many interruptions by signals steer tries for the last time.
const INTERRUPTIONS: u32 = 20;

/// Loads `program` by a call of aya's. If a signal arrives meanwhile, the verifier gives up
/// (EAGAIN), whatever the signal does. Then this tries again.
pub fn load(
    program: &str,
    attempt: impl FnMut() -> Result<(), ProgramError>,
) -> anyhow::Result<()> {
    let is_interruption = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.kind() == io::ErrorKind::WouldBlock)
    };
    let loaded = again(attempt, is_interruption);
    // Nothing else takes as long, so the watchdog hears of it.
    supervisor::alive();
    loaded.map_err(|error| failure(program, error))
}

fn again<E>(
    mut attempt: impl FnMut() -> Result<(), E>,
    is_interruption: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 0..INTERRUPTIONS {
        match attempt() {
            Err(error) if is_interruption(&error) => {}
            outcome => return outcome,
        }
    }
    attempt()
}

/// The failure to load `program`, in one line. The verifier's whole log, which can have a hundred
/// thousand lines, goes to the debug log.
fn failure(program: &str, error: ProgramError) -> anyhow::Error {
    let failed = format!("failed to load the program `{program}`");
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow::Error::from(error).context(failed);
    };
    let log = verifier_log.to_string();
    for line in log.lines() {
        log::debug!("verifier: {line}");
    }
    match reason(&log) {
        // The kernel refused before the verifier looked at the program, because a capability is
        // missing, for example.
        None => anyhow::Error::from(io_error).context(failed),
        Some(reason) => Fail::new(
            Exit::Unsupported,
            format!(
                "this kernel's verifier refuses the program `{program}`: {reason} ({io_error}); \
                 please report this with the kernel's version (-vv shows the verifier's whole log)"
            ),
        )
        .into(),
    }
}

/// The line of a verifier's log that says what it objects to: the last line that isn't
/// statistics.
fn reason(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .rfind(|line| !STATISTICS.iter().any(|start| line.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_no_verdict() {
        let mut outcomes = vec![Ok(()), Err("a signal"), Err("a signal")];
        let mut next = || outcomes.pop().expect("no more tries");
        again(&mut next, |error| *error == "a signal").expect("the third time");
        let tries = |outcome: &'static str| {
            let mut tries = 0;
            let attempt = || {
                tries += 1;
                Err(outcome)
            };
            again(attempt, |error| *error == "a signal").expect_err("it never loads");
            tries
        };
        assert_eq!(tries("a verdict"), 1);
        assert_eq!(tries("a signal"), INTERRUPTIONS + 1);
    }

    /// The end of what Linux 6.1 said of a program that took the verifier too long.
    const TOO_LARGE: &str = "\
409: (5c) w6 &= w7                    ; R6_w=scalar(umax=4294967295,var_off=(0x0; 0xffffffff))
; \n\
410: (bc) w1 = w6
BPF program is too large. Processed 1000001 insn
verification time 31067663 usec
stack depth 128+24+24+24+32+8+0+0+48+0+0+8+80
processed 1000001 insns (limit 1000000) max_states_per_insn 24 total_states 33475
";

    #[test]
    fn the_objection_is_named_and_not_the_statistics() {
        assert_eq!(
            reason(TOO_LARGE),
            Some("BPF program is too large. Processed 1000001 insn")
        );
    }

    #[test]
    fn without_a_log_there_is_no_objection() {
        assert_eq!(reason(""), None);
        assert_eq!(reason("\nprocessed 0 insns (limit 1000000)\n"), None);
    }
}
