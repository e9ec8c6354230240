//! Runs a program under ptrace(2): kills it right before any step that changes something outside of
//! it, and tells what it has loaded and asked.

mod calls;
mod stops;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    process::{Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use rustix::process::Signal;

use self::stops::Stop;
use crate::process::{Output, Process};

/// Steps that never come.
const NEVER: usize = usize::MAX;

/// `AT_SYSINFO_EHDR`: where the program finds the kernel's code that tells the time without a call.
const VDSO: u64 = 33;
/// `AT_IGNORE`
const IGNORE: u64 = 1;

/// A program that runs under ptrace. Killed when dropped.
#[derive(Debug)]
pub struct Traced {
    process: Process,
    seen: Arc<Seen>,
    tracer: Option<JoinHandle<io::Result<()>>>,
}

/// What the tracer sees, and what it is told.
#[derive(Debug)]
struct Seen {
    /// Steps so far, since they are counted.
    steps: AtomicUsize,
    /// The step before which the program is killed.
    kill_at: AtomicUsize,
    /// What that step was.
    killed_before: Mutex<Option<String>>,
    /// The programs that it has loaded into the kernel, by id.
    programs: Mutex<Vec<u32>>,
    /// How often it asked for the time, by the system call and the clock.
    clocks: Mutex<BTreeMap<(libc::c_long, u64), u64>>,
}

impl Seen {
    /// Counts a step, and tells whether the program is to be killed before it.
    fn kills(&self, step: &str) -> bool {
        let count = self.steps.fetch_add(1, Ordering::SeqCst);
        let kills = count == self.kill_at.load(Ordering::SeqCst);
        if kills {
            *held(&self.killed_before) = Some(step.to_owned());
        }
        kills
    }
}

/// How to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vdso {
    /// As usual.
    Usable,
    /// So that it asks the kernel for the time by system calls, which are seen.
    Hidden,
}

impl Traced {
    /// Starts the command, in the namespaces of the calling thread.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(mut command: Command, vdso: Vdso) -> anyhow::Result<Self> {
        let mut filter = calls::filter(vdso == Vdso::Hidden);
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(move || stops::trace_me(&mut filter)) };
        let seen = Arc::new(Seen {
            steps: AtomicUsize::new(0),
            kill_at: AtomicUsize::new(NEVER),
            killed_before: Mutex::default(),
            programs: Mutex::default(),
            clocks: Mutex::default(),
        });
        let (sender, started) = channel();
        let watched = Arc::clone(&seen);
        // Only the thread that started it may trace it.
        let tracer = thread::spawn(move || {
            let process = Process::spawn(command, Output::Stderr);
            let pid = process.as_ref().map(Process::pid).ok();
            // Nobody waits for it any more where the receiver is gone.
            sender.send(process).ok();
            pid.map_or(Ok(()), |pid| trace(pid, vdso, &watched))
        });
        let process = started.recv().context("the tracer ended")??;
        Ok(Self {
            process,
            seen,
            tracer: Some(tracer),
        })
    }

    /// Counts steps from now on, from zero, and kills it right before this one of them.
    pub fn kill_at(&self, step: Option<usize>) {
        self.seen.steps.store(0, Ordering::SeqCst);
        self.seen
            .kill_at
            .store(step.unwrap_or(NEVER), Ordering::SeqCst);
    }

    /// Steps since they are counted.
    pub fn steps(&self) -> usize {
        self.seen.steps.load(Ordering::SeqCst)
    }

    /// What it was killed before.
    pub fn killed_before(&self) -> Option<String> {
        held(&self.seen.killed_before).clone()
    }

    /// The ids of the programs that it has loaded into the kernel.
    pub fn programs(&self) -> Vec<u32> {
        held(&self.seen.programs).clone()
    }

    /// How often it asked for the time, by the system call and its first argument, the clock.
    pub fn clocks(&self) -> BTreeMap<(libc::c_long, u64), u64> {
        held(&self.seen.clocks).clone()
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for the next line on stderr that starts with `prefix`.
    ///
    /// # Errors
    /// When there is none in time, or it ends first.
    pub fn wait_line(&mut self, prefix: &str, within: Duration) -> anyhow::Result<String> {
        self.process.wait_line(prefix, within)
    }

    /// All that it said so far.
    pub fn said(&mut self) -> String {
        self.process.said()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.tracer.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end, and tells all that it said.
    ///
    /// # Errors
    /// When it doesn't end within `within`, or couldn't be traced.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<(ExitStatus, String)> {
        if !crate::process::eventually(within, || self.has_ended()) {
            return Err(anyhow!("it still runs: {}", self.process.said()));
        }
        self.join()?;
        let status = self.process.wait(within)?;
        Ok((status, self.process.rest()))
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let Some(tracer) = self.tracer.take() else {
            return Ok(());
        };
        let outcome = tracer
            .join()
            .map_err(|_panic| anyhow!("the tracer panicked"))?;
        outcome.context("failed to trace it")
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // Not reaped before the tracer is done: whoever waits for it takes the tracer's stops.
        if self.tracer.is_some() {
            self.process.signal(Signal::KILL).ok();
            self.join().ok();
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the process run from stop to stop until it has ended, which is left for others to wait for.
fn trace(pid: u32, vdso: Vdso, seen: &Seen) -> io::Result<()> {
    let mut began = false;
    loop {
        let (thread, stop) = stops::next()?;
        match stop {
            Stop::Ended if thread == pid => return Ok(()),
            Stop::Ended => stops::reap(thread)?,
            Stop::Signal(_) if !began => {
                began = true;
                stops::set_options(pid)?;
                if vdso == Vdso::Hidden {
                    hide_vdso(pid)?;
                }
                stops::go_on(thread, 0)?;
            }
            Stop::Executes if thread == pid && seen.kills("anything of a new file") => {
                stops::kill(pid)?;
            }
            // SIGSTOP is the first of a new thread or child.
            Stop::Executes | Stop::Event | Stop::Signal(libc::SIGSTOP | libc::SIGTRAP) => {
                stops::go_on(thread, 0)?;
            }
            Stop::Signal(signal) => stops::go_on(thread, signal)?,
            // A child's: it only tries steer's file out.
            Stop::Enters { .. } if thread != pid => stops::go_on(thread, 0)?,
            Stop::Enters { number, args } => {
                if calls::asks_time(number) {
                    *held(&seen.clocks).entry((number, args[0])).or_default() += 1;
                }
                if calls::step(number, &args).is_some_and(|step| seen.kills(step)) {
                    stops::kill(pid)?;
                } else if calls::loads_program(number, &args) {
                    stops::go_on_to_result(thread)?;
                } else {
                    stops::go_on(thread, 0)?;
                }
            }
            Stop::Leaves { result } => {
                held(&seen.programs).extend(program_id(pid, result));
                stops::go_on(thread, 0)?;
            }
        }
    }
}

/// The id of the program that a descriptor is of.
fn program_id(pid: u32, descriptor: i64) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).ok()?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("prog_id:"))?;
    id.trim().parse().ok()
}

/// Takes the vDSO out of what the kernel has told the program that is about to run.
fn hide_vdso(pid: u32) -> io::Result<()> {
    let told = fs::read(format!("/proc/{pid}/auxv"))?;
    let entry = told
        .chunks_exact(16)
        .find(|entry| entry[..8] == VDSO.to_ne_bytes())
        .ok_or_else(|| io::Error::other("there is no vDSO"))?;
    // It is on the stack, above the arguments and the environment.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let stack_start = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(25)?.parse::<u64>().ok())
        .ok_or_else(|| io::Error::other("no stack in /proc/PID/stat"))?;
    let memory = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut stack = vec![0; 1 << 20];
    let length = memory.read_at(&mut stack, stack_start)?;
    let place = stack[..length]
        .chunks_exact(8)
        .zip(stack[..length].chunks_exact(8).skip(1))
        .position(|(kind, value)| kind == &entry[..8] && value == &entry[8..])
        .ok_or_else(|| io::Error::other("the vDSO isn't on the stack"))?;
    memory.write_all_at(&IGNORE.to_ne_bytes(), stack_start + 8 * place as u64)?;
    // Some ask /proc/self/auxv for it, which can't be changed: they find no ELF file there.
    let mut address = [0; 8];
    address.copy_from_slice(&entry[8..]);
    memory.write_all_at(&[0; 4], u64::from_ne_bytes(address))
}
