//! One run of one machine.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Args,
    expected::{self, Expected},
    guest::{self, Guest, REFUSAL},
    kernel::Kernel,
    qemu::Qemu,
    report::Run,
};

/// By which factor tests are more patient than on a processor that isn't emulated.
const SLOWER: u32 = 8;

/// The kernel's command line, without what is to be run. The guest's clock and its random numbers
/// need no tests. What watches for hangs is off, because it would find that everything is slow.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable \
                            no_timer_check random.trust_cpu=on audit=0 nowatchdog";

/// A machine that can be started.
pub(super) struct Machine<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) kernel: &'a Kernel,
    pub(super) guest: &'a Guest,
    /// The directory for the machine's output.
    pub(super) directory: &'a Path,
    pub(super) args: &'a Args,
}

impl Machine<'_> {
    /// Starts the machine and waits for its end.
    pub(super) fn run(&self) -> Result<Run> {
        let logs = self.directory.join("log");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{}.log", self.kernel.release));
        let console = logs.join(format!("{}.console.log", self.kernel.release));
        let initial = self.directory.join("initial.cpio");
        self.guest.with_modules(self.kernel, &initial)?;
        let mut qemu = self.qemu.command();
        qemu.args("-nodefaults -no-user-config -display none -no-reboot".split(' '))
            .args("-accel tcg,thread=multi -cpu max -smp 2".split(' '))
            .args(["-m", &self.args.memory.to_string()])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", log.display()))
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&initial)
            .args(["-append", &self.command_line()?])
            .stdin(Stdio::null());
        let started = Instant::now();
        let mut child = qemu.spawn().with_context(|| {
            format!(
                "failed to start QEMU in {}",
                self.qemu.directory().display()
            )
        })?;
        let ended = wait(&mut child, Duration::from_secs(self.args.timeout))?;
        let took = started.elapsed();
        Run::read(&self.kernel.release, ended, took, &log, &console)
    }

    fn command_line(&self) -> Result<String> {
        let asked = self.guest.modules(&self.args.tests)?;
        let mut line = format!("{COMMAND_LINE} {}", guest::policies_variable());
        // Writing to a String can't fail.
        let mut add = |name: &str, value: &str| {
            let _ = write!(line, " {name}={value}");
        };
        add("STEER_SLOWER", &SLOWER.to_string());
        match expected::of(&self.kernel.version) {
            Expected::Refusal => {
                let refusal = self.guest.modules(&[REFUSAL.to_owned()])?;
                add("STEER_VM_TESTS", &refusal);
            }
            Expected::Trial(trial) => {
                add("STEER_VM_TESTS", &asked);
                add("STEER_EXPECTED_TRIAL", trial);
            }
        }
        if let Some(filter) = &self.args.filter {
            add("STEER_VM_FILTER", filter);
        }
        if let Some(more) = &self.args.append {
            line = format!("{line} {more}");
        }
        // 2048 is COMMAND_LINE_SIZE of x86. The kernel cuts the rest off without a word.
        ensure!(line.len() < 2048, "the kernel's command line is too long");
        Ok(line)
    }
}

/// Waits for the machine's end. If the time is over first, ends the machine and returns no status.
fn wait(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
