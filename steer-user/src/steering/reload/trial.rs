//! Asks the file that is to be executed whether it can take over. This steer goes on meanwhile.

use std::{
    fmt::Write as _,
    future::{Future, pending},
    io,
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use steer_common::names::LAYOUT;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::{FileId, Reload, file_id};
use crate::{
    output::escape::foreign,
    steering::orders,
    sys::{orphan::die_with_parent, procfs::number},
};

/// How long the file may take to answer. Nothing else waits for the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// How many bytes of each of its outputs are read.
const LONGEST: u64 = 4096;

/// The argument that asks a steer whether it can take over from a steer with this layout of the
/// maps.
const QUESTION: &str = "--can-resume";

/// The beginning of the answer. The layout that the new steer makes follows.
const ANSWER: &str = "can resume, with layout ";

/// The answer of a steer that can take over and makes maps of this layout.
pub fn answer_with(layout: u32) -> String {
    format!("{ANSWER}{layout}\n")
}

/// The layout that an answer names.
pub fn layout_in(answer: &str) -> Option<u32> {
    let digits = answer.strip_prefix(ANSWER)?.strip_suffix('\n')?;
    number(digits.as_bytes()).filter(|layout: &u32| layout.to_string() == digits)
}

/// Why the file isn't executed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file can't be run.
    #[error("{} doesn't run", path.display())]
    Runs {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file gave no answer in time.
    #[error("{} didn't tell within {LIMIT:?} whether it can take over", .0.display())]
    Hangs(PathBuf),
    /// The file says that it can't take over.
    #[error("{} can't take over: {why}", path.display())]
    Cannot {
        /// The file.
        path: PathBuf,
        /// What it says.
        why: String,
    },
}

/// A running trial. It ends with the file that can take over, or with the reason why it can't.
type Running = Pin<Box<dyn Future<Output = Result<FileId, Refusal>>>>;

/// A trial, which may be running.
#[derive(Default)]
pub struct Trial(Option<Running>);

impl Trial {
    /// Begins a trial, unless one is running.
    pub fn begin(&mut self, reload: &Reload) {
        if self.0.is_none() {
            self.0 = Some(Box::pin(attempt(reload.clone())));
        }
    }

    /// Waits for the outcome of the running trial. If none is running, waits for ever. If the
    /// caller drops this future, the trial goes on.
    pub async fn outcome(&mut self) -> Result<FileId, Refusal> {
        match &mut self.0 {
            Some(trial) => {
                let outcome = trial.await;
                self.0 = None;
                outcome
            }
            None => pending().await,
        }
    }
}

async fn attempt(reload: Reload) -> Result<FileId, Refusal> {
    let path = reload.program.clone();
    let runs = |source| Refusal::Runs {
        path: path.clone(),
        source,
    };
    let tried = file_id(&path).map_err(runs)?;
    let mut asked = Asked::start(&reload).map_err(runs)?;
    let Ok(said) = timeout(LIMIT, asked.said()).await else {
        asked.kill().await;
        return Err(Refusal::Hangs(path));
    };
    let (status, answer, words) = said.map_err(runs)?;
    match judge(status, &answer, &words) {
        Ok(()) => Ok(tried),
        Err(why) => Err(Refusal::Cannot { path, why }),
    }
}

/// Decides what an answer is worth.
fn judge(status: ExitStatus, answer: &[u8], words: &[u8]) -> Result<(), String> {
    if !status.success() {
        let mut why = reason(&String::from_utf8_lossy(words));
        if why.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(why, "it ended with {status}");
        }
        return Err(why);
    }
    match layout_in(&String::from_utf8_lossy(answer)) {
        Some(layout) if layout >= LAYOUT => Ok(()),
        Some(layout) => Err(format!(
            "its maps have layout {layout}, and those in use have {LAYOUT}: it is an older version"
        )),
        None => Err("it isn't a steer".to_owned()),
    }
}

/// The line that says why a program failed.
fn reason(words: &str) -> String {
    let lines = || words.lines().filter(|line| !line.trim().is_empty());
    let said = |line: &&str| line.starts_with("steer: ") || line.starts_with("error: ");
    let line = lines().find(said).or_else(|| lines().next_back());
    foreign(line.unwrap_or_default())
}

/// The process that was asked, with all processes that it starts. All of them are killed when
/// this is dropped.
struct Asked(Child);

impl Drop for Asked {
    fn drop(&mut self) {
        self.kill_group();
    }
}

impl Asked {
    fn start(reload: &Reload) -> io::Result<Self> {
        let mut command = std::process::Command::new(&reload.program);
        command
            .args(&reload.args)
            .arg(format!("{QUESTION}={LAYOUT}"))
            // The process that is asked isn't the service that systemd watches.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        die_with_parent(&mut command, Signal::KILL);
        let signals = orders::signals();
        let unblock = move || signals.thread_unblock().map_err(Into::into);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        // The conversion of the error number only changes its type.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, unblock) };
        let mut command = Command::from(command);
        command.process_group(0).kill_on_drop(true);
        Ok(Self(command.spawn()?))
    }

    async fn said(&mut self) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        let (stdout, stderr) = tokio::join!(beginning(stdout), beginning(stderr));
        Ok((self.0.wait().await?, stdout?, stderr?))
    }

    async fn kill(mut self) {
        self.kill_group();
        // If waiting fails, the process has ended already.
        drop(self.0.wait().await);
    }

    /// Kills the process and its children. It has an id as long as nobody has waited for it, so
    /// that id is no other process's.
    fn kill_group(&self) {
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // If no process of the group is left, there is nothing to kill.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LONGEST).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn judged(status: i32, answer: &str, words: &str) -> Result<(), String> {
        judge(
            ExitStatus::from_raw(status << 8),
            answer.as_bytes(),
            words.as_bytes(),
        )
    }

    #[test]
    fn only_a_steer_of_this_or_a_later_layout_can_take_over() {
        assert_eq!(judged(0, &answer_with(LAYOUT), ""), Ok(()));
        assert_eq!(
            judged(0, "can resume, with layout 9999\n", "warning: x\n"),
            Ok(())
        );
        let older = format!("can resume, with layout {}\n", LAYOUT - 1);
        let refused = judged(0, &older, "").expect_err("an older layout");
        assert!(refused.contains("older version"), "{refused}");
        for other in [
            "",
            "steer 0.1.0\n",
            "can resume, with layout \n",
            "can resume, with layout 4",
        ] {
            assert_eq!(
                judged(0, other, ""),
                Err("it isn't a steer".into()),
                "{other}"
            );
        }
    }

    #[test]
    fn the_line_that_tells_why() {
        let clap = "error: unexpected argument '--can-resume' found\n\nUsage: steer\n";
        let unknown = "error: unexpected argument '--can-resume' found";
        assert_eq!(judged(2, "", clap), Err(unknown.into()));
        let own = "warning: something\nsteer: not permitted\n";
        assert_eq!(
            judged(3, &answer_with(LAYOUT), own),
            Err("steer: not permitted".into())
        );
        assert_eq!(judged(1, "", "one\ntwo\x1b\n\n"), Err("two\\u{1b}".into()));
        let silent = judged(1, "", "").expect_err("it failed");
        assert!(silent.contains("exit status: 1"), "{silent}");
    }
}
