//! What this kernel does with connections that wait on a listener that closes.

use std::env;

use anyhow::bail;
use steer_user::kernel::migration::{self, Trial};

use crate::skip::{Skip, skip};

/// The variable that tells what is known of this kernel: `sound`, `not-woken` or `lost`.
pub const EXPECTED: &str = "STEER_EXPECTED_TRIAL";

/// What is known of this kernel, if something is.
///
/// # Errors
/// When the variable says anything else.
pub fn expected() -> anyhow::Result<Option<Trial>> {
    Ok(match env::var(EXPECTED).as_deref() {
        Err(_) => None,
        Ok("sound") => Some(Trial::Sound),
        Ok("not-woken") => Some(Trial::NotWoken),
        Ok("lost") => Some(Trial::Lost),
        Ok(other) => bail!("{EXPECTED} is {other:?}"),
    })
}

/// Whether steer lets connections migrate here. Reports that `test` is skipped where it doesn't.
///
/// # Errors
/// When the trial fails, or when every test must run.
pub fn migrates_for(test: &str) -> anyhow::Result<bool> {
    if migration::trial()? == Trial::Sound {
        return Ok(true);
    }
    skip(
        test,
        &Skip::Kernel {
            lacks: "sound migration",
        },
    )?;
    Ok(false)
}
