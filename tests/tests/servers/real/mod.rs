//! Real servers whose workers are replaced, each with a listener of its own.

mod haproxy;
mod install;
mod masters;

use std::{path::PathBuf, process::Command};

use anyhow::Context as _;
use rustix::process::Signal;
use steer_tests::{
    PORT,
    servers::{self, file, npm::Programs, pm2::Pm2},
    skip::Skip,
    workers::local,
};
use steer_user::sys::sockdiag;

use self::{haproxy::Haproxy, install::Installed, masters::Masters};

/// Workers of every server, each with a listener.
pub(crate) const WORKERS: usize = 4;

/// A server that runs.
pub(crate) trait Server {
    /// Begins to replace workers.
    fn begin(&mut self, number: usize) -> anyhow::Result<()>;

    /// Waits until it is done.
    fn finish(&mut self) -> anyhow::Result<()>;
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `nginx -s reload`.
    Nginx,
    /// gunicorn's workers that serve one connection at a time, at SIGHUP.
    GunicornSync,
    /// The same with a forked process that inherits the listener.
    GunicornHelper,
    /// gunicorn's workers that end by themselves.
    GunicornMaxRequests,
    /// gunicorn's workers with threads, at SIGHUP.
    GunicornThreads,
    /// uWSGI at SIGHUP, which executes itself anew.
    Uwsgi,
    /// Workers that wait in select(), as Workerman's.
    Select,
    /// HAProxy's listeners, one a thread, shut down and listening again.
    HaproxyPause,
    /// HAProxy at SIGUSR2, which hands its listeners to a new process.
    HaproxyReload,
    /// Node's cluster with `reusePort`.
    NodeCluster,
    /// Bun under PM2.
    Bun,
}

impl Kind {
    /// As the table has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx, `reload`",
            Self::GunicornSync => "gunicorn sync, HUP",
            Self::GunicornHelper => "gunicorn sync, forked helper, HUP",
            Self::GunicornMaxRequests => "gunicorn sync, `max_requests`",
            Self::GunicornThreads => "gunicorn gthread, HUP",
            Self::Uwsgi => "uWSGI, HUP",
            Self::Select => "select(), worker by worker",
            Self::HaproxyPause => "HAProxy, `disable`, `enable`",
            Self::HaproxyReload => "HAProxy, `reload`",
            Self::NodeCluster => "Node cluster, `reusePort`",
            Self::Bun => "Bun under PM2, `restart`",
        }
    }

    /// What it needs.
    pub(crate) fn install(self) -> Result<Installed, Skip> {
        match self {
            Self::Nginx => servers::program("nginx", "nginx").map(Installed::Program),
            Self::GunicornSync
            | Self::GunicornHelper
            | Self::GunicornMaxRequests
            | Self::GunicornThreads => install::python("gunicorn"),
            Self::Uwsgi => install::python("uwsgi"),
            Self::Select => servers::program("python3", "python3").map(Installed::Program),
            Self::HaproxyPause | Self::HaproxyReload => {
                servers::program("haproxy", "haproxy").map(Installed::Program)
            }
            Self::NodeCluster => install::node(),
            Self::Bun => Programs::install().map(Installed::Npm),
        }
    }

    /// Starts it. The test has [`servers::Room::enter`]ed.
    pub(crate) fn start(self, installed: &Installed) -> anyhow::Result<Box<dyn Server + '_>> {
        let port = PORT.to_string();
        let address = local(PORT).to_string();
        if let Installed::Npm(programs) = installed {
            return Ok(Box::new(Bun::start(programs)?));
        }
        let program = installed.program()?;
        let gunicorn = |more: &[&str], environment: &[(&str, &str)]| {
            let mut one = Command::new(&program);
            one.args(["--bind", &address, "--reuse-port", "--workers", "1"])
                .args(["--log-level", "error", "--no-control-socket"])
                .args(more)
                .arg("app:app")
                .envs(environment.iter().copied());
            one
        };
        let hangup = Some(Signal::HUP);
        let masters = match self {
            Self::Nginx => Masters::nginx(&program)?,
            Self::GunicornSync => Masters::several(|| gunicorn(&[], &[]), hangup)?,
            Self::GunicornHelper => Masters::several(|| gunicorn(&[], &[("HELPER", "1")]), hangup)?,
            Self::GunicornMaxRequests => {
                let more = ["--max-requests", "40", "--max-requests-jitter", "20"];
                Masters::several(|| gunicorn(&more, &[]), None)?
            }
            Self::GunicornThreads => {
                let more = ["--worker-class", "gthread", "--threads", "2"];
                Masters::several(|| gunicorn(&more, &[]), hangup)?
            }
            Self::Uwsgi => Masters::several(
                || {
                    let mut one = Command::new(&program);
                    one.args(["--http-socket", &address, "--reuse-port", "--master"])
                        .args(["--processes", "1", "--need-app", "--disable-logging"])
                        .args(["--wsgi-file", "app.py", "--die-on-term", "--logto"])
                        .arg("/run/uwsgi.log");
                    one
                },
                hangup,
            )?,
            Self::Select => {
                let mut one = Command::new(&program);
                one.arg(file("real/select_server.py"))
                    .args([&port, &WORKERS.to_string()]);
                Masters::one(one, Signal::USR1)?
            }
            Self::NodeCluster => {
                let mut one = Command::new(&program);
                one.arg(file("node/cluster.js"))
                    .env("PORT", &port)
                    .env("WORKERS", WORKERS.to_string());
                Masters::one(one, Signal::USR2)?
            }
            Self::HaproxyReload => Masters::one(haproxy::command(&program), Signal::USR2)?,
            Self::HaproxyPause => return Ok(Box::new(Haproxy::start(&program)?)),
            Self::Bun => anyhow::bail!("not npm's"),
        };
        Ok(Box::new(masters))
    }
}

/// Whether as many listen as should.
fn all_listen() -> bool {
    sockdiag::listeners(PORT).is_ok_and(|listeners| listeners.len() == WORKERS)
}

/// Bun's workers.
struct Bun<'a>(Pm2<'a>);

impl<'a> Bun<'a> {
    fn start(programs: &'a Programs) -> anyhow::Result<Self> {
        let environment = vec![
            ("WORKERS", WORKERS.to_string()),
            ("ENDING", "finish".to_owned()),
            ("CLAIMS", "/run/claims".to_owned()),
        ];
        Pm2::start(programs, "bun/rolling.config.cjs", environment).map(Self)
    }
}

impl Server for Bun<'_> {
    fn begin(&mut self, number: usize) -> anyhow::Result<()> {
        let worker = (number % WORKERS).to_string();
        self.0.run(&["restart".as_ref(), worker.as_ref()])
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        masters::wait_for("listeners", all_listen)
    }
}

/// Where a server's own files are.
fn here() -> PathBuf {
    file("real")
}

/// The name of a file as an argument.
fn argument(file: &std::path::Path) -> anyhow::Result<&str> {
    file.to_str().context("no UTF-8")
}
