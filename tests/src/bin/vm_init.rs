//! PID 1 of a machine of `cargo xtask vm`: runs tests and powers the machine off.
//!
//! What to run comes in variables, which is what the kernel makes of words of its command line that
//! it doesn't know. The second serial port gets the output, because the kernel writes to the
//! first whenever it likes.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, setrlimit},
    system::{RebootCommand, finit_module, reboot},
};
use steer_tests::net;

/// Where the archive has the programs.
const PROGRAMS: &str = "/steer";

/// What is mounted: kind and place.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("securityfs", "/sys/kernel/security"),
];

/// `MODULE_INIT_COMPRESSED_FILE`, since Linux 5.17.
const DECOMPRESS: i32 = 4;

/// Open files of a process.
const FILES: u64 = 1 << 19;

/// How long the tests of one file may take.
const PATIENCE: Duration = Duration::from_secs(400);

fn main() {
    let done = run();
    if let Err(error) = &done {
        say(&format!("{error:#}"));
    }
    // Reached after an error too: whoever reads the output misses its last line.
    rustix::fs::sync();
    let off = reboot(RebootCommand::PowerOff);
    say(&format!("failed to power off: {off:?}"));
}

/// Tells it to whoever looks at the machine's console.
fn say(what: &str) {
    // Nobody is left to be told of a failure.
    drop(writeln!(io::stderr(), "vm: {what}"));
}

fn run() -> anyhow::Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("failed to mount {place}"))?;
    }
    let mut output = OpenOptions::new().write(true).open("/dev/ttyS1")?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().unwrap_or_default();
    writeln!(output, "vm: init after {uptime}")?;
    load_modules()?;
    // As many as a login gets on usual systems; the kernel's own default is 1024.
    let files = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    setrlimit(Resource::Nofile, files).context("failed to allow more open files")?;
    net::loopback_up()?;

    // For the reader: what steer finds here. Its exit code says whether it can work, and the
    // tests judge that.
    let mut doctor = start(&output, "steer", &["doctor".to_owned()])?;
    end(&mut doctor)?;
    let names = env::var("STEER_VM_TESTS").context("STEER_VM_TESTS isn't set")?;
    let mut args: Vec<String> = ["--ignored", "--test-threads", "1"]
        .map(str::to_owned)
        .into();
    args.extend(env::var("STEER_VM_FILTER").ok());
    for name in names.split(',') {
        writeln!(output, "vm: running {name}")?;
        let mut test = start(&output, &format!("deps/{name}"), &args)?;
        let started = Instant::now();
        let ended = end(&mut test)?;
        let took = started.elapsed().as_secs();
        match ended {
            Some(status) if status.success() => writeln!(output, "vm: passed {name} ({took} s)")?,
            Some(status) => writeln!(output, "vm: failed {name} ({took} s) with {status}")?,
            None => writeln!(output, "vm: failed {name} ({took} s), which is too long")?,
        }
    }
    writeln!(output, "vm: end")?;
    rustix::termios::tcdrain(&output)?;
    Ok(())
}

/// Loads what a system with a modprobe would load when it is needed.
fn load_modules() -> anyhow::Result<()> {
    let mut files: Vec<_> = fs::read_dir("/modules")?
        .map(|file| Ok(file?.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    for file in files {
        let compressed = file.extension().is_some_and(|suffix| suffix == "xz");
        let flags = if compressed { DECOMPRESS } else { 0 };
        finit_module(File::open(&file)?, c"", flags)
            .with_context(|| format!("failed to load {}", file.display()))?;
    }
    Ok(())
}

fn start(output: &File, program: &str, args: &[String]) -> anyhow::Result<Child> {
    let program = Path::new(PROGRAMS).join(program);
    Command::new(&program)
        .args(args)
        .env("PATH", "/bin")
        .env("STEER_OWN_KERNEL", "1")
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .with_context(|| format!("failed to start {}", program.display()))
}

/// Waits for the end of a program, and makes one when the time is over.
fn end(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
