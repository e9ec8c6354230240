//! Executes steer's own file again in the same process. The file may be a newer version by now.
//!
//! Over the exec, signals stay blocked (see [`crate::steering::orders`]) and the port's lock
//! stays held, so that nobody comes in between.

mod trial;

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::execv;

pub use self::trial::{Refusal, Trial, answer_with, layout_in};
use crate::state::host::PortLock;

/// The argument that tells the new steer to go on where this one stops, and by which descriptor
/// it has the port's lock.
pub const RESUMES: &str = "--resumes";

/// The file that a path names: its device and inode.
pub type FileId = (u64, u64);

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Reload {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Reload {
    /// Remembers the path and the arguments. Call this at the start, in the directory in which
    /// steer was started.
    pub fn new() -> io::Result<Self> {
        let mut args = env::args_os();
        let name = args.next();
        let mut args = without_netns(args);
        let resumed = args.iter().any(is_resumes);
        args.retain(|arg| !is_resumes(arg));
        let named = name.and_then(|name| {
            let search = env::var_os("PATH").unwrap_or_default();
            let named = path_of(&name, &env::current_dir().ok()?, &search, Path::is_file)?;
            // Whoever started steer may have given it any name. After a reload the name is the
            // one that steer gave itself, and is right.
            (resumed || is_running(&named)).then_some(named)
        });
        let program = match named {
            Some(named) => named,
            None => env::current_exe()?,
        };
        Ok(Self { program, args })
    }

    /// Becomes the new steer, if the file is still `tried`, which has said that it can take over.
    /// Returns true if the path names another file by now, which must be tried first.
    ///
    /// # Errors
    /// If the file can't be executed. This steer goes on then.
    pub fn execute(&self, tried: FileId, lock: &PortLock) -> io::Result<bool> {
        if file_id(&self.program)? != tried {
            return Ok(true);
        }
        let passed = lock.pass_on(true)?;
        let mut line = vec![c_string(self.program.clone().into())?];
        for arg in &self.args {
            line.push(c_string(arg.clone())?);
        }
        line.push(c_string(format!("{RESUMES}={passed}").into())?);
        let error = match execv(&line[0], &line) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        lock.pass_on(false)?;
        Err(error.into())
    }
}

fn c_string(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}

fn file_id(path: &Path) -> io::Result<FileId> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn is_running(path: &Path) -> bool {
    let running = file_id(Path::new("/proc/self/exe"));
    running.is_ok_and(|running| file_id(path).is_ok_and(|found| found == running))
}

/// The absolute path of the file that a command line calls `name`. Symbolic links in the path
/// stay, because their targets may change.
fn path_of(
    name: &OsStr,
    here: &Path,
    search: &OsStr,
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(here.join(name));
    }
    env::split_paths(search)
        .map(|dir| here.join(dir).join(name))
        .find(|path| is_file(path))
}

fn is_resumes(arg: &OsString) -> bool {
    let rest = arg.as_encoded_bytes().strip_prefix(RESUMES.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
}

/// The arguments without --netns. The process stays in its network namespace, and the name of the
/// namespace may be gone by now.
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
    use super::*;

    #[test]
    fn the_namespace_is_left_out_and_nothing_else() {
        let kept = |line: &str| {
            let args = line.split(' ').map(Into::into);
            without_netns(args).join(OsStr::new(" "))
        };
        assert_eq!(kept("attach --netns pid:7 --port 1"), "attach --port 1");
        assert_eq!(kept("--netns=blue attach --port 1"), "attach --port 1");
        assert_eq!(kept("attach --netns"), "attach");
        assert_eq!(kept("attach --port 1"), "attach --port 1");
    }

    #[test]
    fn a_name_is_found_as_the_shell_finds_it_and_its_links_stay() {
        let path = |name: &str, search: &str| {
            let is_file = |path: &Path| path == Path::new("/usr/bin/steer");
            path_of(
                OsStr::new(name),
                Path::new("/here"),
                OsStr::new(search),
                is_file,
            )
        };
        let some = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            path("/opt/current/steer", "/usr/bin"),
            some("/opt/current/steer")
        );
        assert_eq!(path("v1/steer", "/usr/bin"), some("/here/v1/steer"));
        assert_eq!(path("steer", "/bin:/usr/bin"), some("/usr/bin/steer"));
        assert_eq!(path("steer", "/bin"), None);
        assert_eq!(path("steer", ""), None);
    }

    #[test]
    fn what_was_passed_to_this_steer_is_not_passed_on() {
        assert!(is_resumes(&"--resumes".into()));
        assert!(is_resumes(&"--resumes=7".into()));
        assert!(!is_resumes(&"--resumes-not".into()));
        assert!(!is_resumes(&"--port".into()));
    }
}
