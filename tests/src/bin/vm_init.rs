//! PID 1 of a machine of `cargo xtask vm`: runs tests and powers the machine off.
//!
//! What to run comes in variables, which is what the kernel makes of words of its command line that
//! it doesn't know. The second serial port gets the output, because the kernel writes to the
//! first whenever it likes.
//!
//! Tests that need systemd come last: for these PID 1 becomes systemd, which starts this program
//! again as a service.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Resource, Rlimit, setrlimit},
    system::{RebootCommand, finit_module, reboot},
};
use steer_tests::net;

/// Where the output goes.
const OUTPUT: &str = "/dev/ttyS1";

/// The first of the tests that need systemd, which are the last ones.
const SYSTEMD_TEST: &str = "following::systemd";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const UNITS: &str = "/run/systemd/system";
const SERVICE: &str = "steer-tests.service";

/// Where the archive has the programs.
const PROGRAMS: &str = "/steer";

const BPFFS: &str = "/sys/fs/bpf";

/// What is mounted: kind and place.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", BPFFS),
    ("cgroup2", "/sys/fs/cgroup"),
    ("securityfs", "/sys/kernel/security"),
];

/// `MODULE_INIT_COMPRESSED_FILE`, since Linux 5.17.
const DECOMPRESS: i32 = 4;

/// Open files of a process.
const FILES: u64 = 1 << 19;

/// How long the tests of one module may take.
const PATIENCE: Duration = Duration::from_secs(800);

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
    let names = env::var("STEER_VM_TESTS").context("STEER_VM_TESTS isn't set")?;
    let names: Vec<&str> = names.split(',').collect();
    let needs_it = names.iter().position(|name| *name == SYSTEMD_TEST);
    let (without, with) = names.split_at(needs_it.unwrap_or(names.len()));
    let mut output = OpenOptions::new();
    output.append(true);
    if process::id() == 1 {
        prepare()?;
        let mut output = output.open(OUTPUT)?;
        begin(&mut output)?;
        run_tests(&mut output, without)?;
        if !with.is_empty() {
            become_systemd()?;
        }
        end_of_output(output)
    } else {
        // `hardened` changes the kernel of all of them, and `systemd` its services.
        let mut output = output.open(OUTPUT)?;
        for test in with {
            run_tests(&mut output, &[test])?;
        }
        end_of_output(output)
    }
}

/// What every system has done before it starts a service.
fn prepare() -> anyhow::Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("failed to mount {place}"))?;
    }
    load_modules()?;
    // As many as a login gets on usual systems; the kernel's own default is 1024.
    let files = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    setrlimit(Resource::Nofile, files).context("failed to allow more open files")?;
    net::loopback_up()
}

/// For the reader: when this began, and what steer finds here. Its exit code says whether it can
/// work, and the tests judge that.
fn begin(output: &mut File) -> anyhow::Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().unwrap_or_default();
    writeln!(output, "vm: init after {uptime}")?;
    let mut doctor = start(output, "steer", &["doctor".to_owned()])?;
    end(&mut doctor)?;
    Ok(())
}

/// Runs modules of tests, one for each processor at a time; what each prints comes when it has ended.
fn run_tests(output: &mut File, names: &[&str]) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let output = Mutex::new(output);
    let work = || -> anyhow::Result<()> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (said, outcome) = run_test(name)?;
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(output, "vm: running {name}")?;
            output.write_all(&said)?;
            writeln!(output, "{outcome}")?;
        }
        Ok(())
    };
    let processors = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let ended = worker.join();
            ended.map_err(|_panic| anyhow::anyhow!("running tests panicked"))??;
        }
        Ok(())
    })
}

/// What a module of tests printed, and how it ended.
fn run_test(name: &str) -> anyhow::Result<(Vec<u8>, String)> {
    let (program, module) = name.split_once("::").context("a program and a module")?;
    let program = format!("deps/{program}");
    let mut args: Vec<String> = ["--ignored", "--test-threads", "1", "--exact"]
        .map(str::to_owned)
        .into();
    let tests = tests_of(&program, module)?;
    if tests.is_empty() {
        return Ok((
            Vec::new(),
            format!("vm: passed {name} (none of its tests was asked for)"),
        ));
    }
    args.extend(tests);
    // A file rather than a pipe: what a test leaves behind may have it open for longer than the test
    // runs.
    let path = Path::new("/run").join(format!("{module}.output"));
    let mut test = start(&File::create(&path)?, &program, &args)?;
    let started = Instant::now();
    let ended = end(&mut test)?;
    let took = started.elapsed().as_secs();
    let outcome = match ended {
        Some(status) if status.success() => format!("vm: passed {name} ({took} s)"),
        Some(status) => format!("vm: failed {name} ({took} s) with {status}"),
        None => format!("vm: failed {name} ({took} s), which is too long"),
    };
    let said = fs::read(&path)?;
    fs::remove_file(&path)?;
    Ok((said, outcome))
}

/// The tests of a module that are asked for, by their whole names.
fn tests_of(program: &str, module: &str) -> anyhow::Result<Vec<String>> {
    let filter = env::var("STEER_VM_FILTER").unwrap_or_default();
    let listed = Command::new(Path::new(PROGRAMS).join(program))
        .args(["--list", "--ignored", "--format", "terse"])
        .output()
        .with_context(|| format!("failed to list the tests of {program}"))?;
    let listed = String::from_utf8(listed.stdout)?;
    let tests = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let is_asked = |test: &&str| {
        let rest = test
            .strip_prefix(module)
            .and_then(|rest| rest.strip_prefix("::"));
        rest.is_some_and(|rest| rest.contains(&filter))
    };
    Ok(tests.filter(is_asked).map(str::to_owned).collect())
}

fn end_of_output(mut output: File) -> anyhow::Result<()> {
    writeln!(output, "vm: end")?;
    rustix::termios::tcdrain(&output)?;
    Ok(())
}

/// Goes on as systemd, with this program as the one service that it is to start.
fn become_systemd() -> anyhow::Result<()> {
    let mut unit = format!(
        "[Service]\nType=oneshot\nExecStart=/init\nTimeoutStartSec=infinity\n\
         LimitNOFILE={FILES}\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n"
    );
    for (name, value) in env::vars().filter(|(name, _)| name.starts_with("STEER_")) {
        writeln!(unit, "Environment={name}={value}")?;
    }
    fs::create_dir_all(UNITS)?;
    fs::write(Path::new(UNITS).join(SERVICE), unit).context("failed to write the unit")?;
    // systemd mounts it with other rights.
    unmount(BPFFS, UnmountFlags::empty()).with_context(|| format!("failed to unmount {BPFFS}"))?;
    let error = Command::new(SYSTEMD)
        .arg(format!("--unit={SERVICE}"))
        .arg("--log-target=console")
        .exec();
    Err(error).with_context(|| format!("failed to execute {SYSTEMD}"))
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

/// Starts a program that writes to that file.
fn start(output: &File, program: &str, args: &[String]) -> anyhow::Result<Child> {
    let program = Path::new(PROGRAMS).join(program);
    Command::new(&program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin")
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
