//! Executes steer's own file again, which may be a newer version's by now, in the same process.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The argument that tells the new steer to go on where this one stopped.
pub const RESUMES: &str = "--resumes";

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Reload {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Reload {
    /// Remembers the file and the arguments. To be called at the start: the name of a file that is
    /// replaced later can't be told any more.
    pub fn new() -> io::Result<Self> {
        let mut args = without_netns(env::args_os().skip(1));
        if !args.iter().any(|arg| arg == RESUMES) {
            args.push(RESUMES.into());
        }
        Ok(Self {
            program: env::current_exe()?,
            args,
        })
    }

    /// Whether what is in the file by now runs at all.
    pub fn try_out(&self) -> io::Result<()> {
        let status = Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{} --version ended with {status}",
                self.program.display()
            )))
        }
    }

    /// Becomes the new steer. Returns only where that fails.
    pub fn execute(&self) -> io::Error {
        // Another SIGHUP would end the new steer until it listens to signals. An ignored one stays
        // ignored over an exec.
        // SAFETY: no handler is installed, so nothing runs at a wrong moment.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        Command::new(&self.program).args(&self.args).exec()
    }
}

/// The process stays in its network namespace, whose name may be gone by now.
pub fn without_netns(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args;
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--netns" {
            args.next();
        } else if !arg.as_encoded_bytes().starts_with(b"--netns=") {
            kept.push(arg);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::without_netns;

    #[test]
    fn the_namespace_is_left_out_and_nothing_else() {
        let kept = |line: &str| {
            let args = line.split(' ').map(Into::into);
            without_netns(args).join(std::ffi::OsStr::new(" "))
        };
        assert_eq!(kept("attach --netns pid:7 --port 1"), "attach --port 1");
        assert_eq!(kept("--netns=blue attach --port 1"), "attach --port 1");
        assert_eq!(kept("attach --netns"), "attach");
        assert_eq!(kept("attach --port 1"), "attach --port 1");
    }
}
