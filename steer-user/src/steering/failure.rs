//! What becomes of an error: its exit code, advice on it, and which comes first if there are two.

use std::{error::Error, io};

use crate::{
    output::exit::{Exit, Fail},
    state::{bpffs::BpffsError, lock::LockError},
    sys::{privilege::PrivilegeError, trusted::TrustError},
};

/// Adds to an error that undoing something failed, too. The first error comes first, and decides
/// the exit code.
pub fn after(error: anyhow::Error, undone: anyhow::Result<()>) -> anyhow::Error {
    match undone {
        Ok(()) => error,
        Err(undoing) => {
            let exit = code(&error);
            Fail::new(
                exit,
                format!("{error:#}; undoing it failed, too: {undoing:#}"),
            )
            .into()
        }
    }
}

/// What to do about an error, if its own words don't say so. This text is put behind the error's.
pub fn advice(error: &anyhow::Error) -> &'static str {
    let out_of_files = |cause: &(dyn Error + 'static)| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.and_then(io::Error::raw_os_error) == Some(libc::EMFILE)
    };
    if error.chain().any(out_of_files) {
        "; raise steer's limit of open files (ulimit -n, or systemd's LimitNOFILE=)"
    } else {
        ""
    }
}

/// The exit code of an error: that of the first failure in its chain that has one. If the kernel
/// doesn't permit something, a capability is missing, or a file has the wrong owner.
pub fn code(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            cause
                .downcast_ref::<Fail>()
                .map(|fail| fail.exit)
                .or_else(|| is_denial(cause).then_some(Exit::NotPermitted))
        })
        .unwrap_or(Exit::Failure)
}

fn is_denial(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<PrivilegeError>()
        || matches!(
            distrust(cause),
            Some(TrustError::Unsafe { .. } | TrustError::Denied { .. })
        )
        || cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// What is wrong with a directory, even if another error wraps that.
fn distrust<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TrustError> {
    let of_lock = |error: &'a LockError| match error {
        LockError::Open(error) => Some(error),
        LockError::Held { .. } | LockError::Gone { .. } | LockError::Io { .. } => None,
    };
    match cause.downcast_ref() {
        Some(BpffsError::Open(error)) => return Some(error),
        Some(BpffsError::Lock(error)) => return of_lock(error),
        _ => {}
    }
    cause
        .downcast_ref()
        .or_else(|| cause.downcast_ref().and_then(of_lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_first_comes_first() {
        let cause = || anyhow::Error::from(Fail::new(Exit::Held, "tcp port 3000 is held"));
        assert_eq!(after(cause(), Ok(())).to_string(), "tcp port 3000 is held");
        let both = after(cause(), Err(anyhow::anyhow!("no memory")));
        assert_eq!(code(&both), Exit::Held);
        assert!(
            both.to_string().starts_with("tcp port 3000 is held; "),
            "{both}"
        );
        assert!(both.to_string().ends_with(": no memory"), "{both}");
    }
}
