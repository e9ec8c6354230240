//! `steer attach`: steers a port until it is told to stop.

use std::{
    os::fd::RawFd,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use steer_common::names::LAYOUT;
use tokio::{runtime, task::LocalSet};

use crate::{
    cli::{
        absent,
        args::{MigrateArg, PolicyArg, Span, StickyPrefix},
    },
    kernel::{
        loading::Kernel,
        migration::{self, Trial},
        object,
    },
    output::{
        exit::{Exit, Fail},
        print::{data, message},
        supervisor::{self, Supervisor},
    },
    state::bpffs::{self, Use},
    steering::{
        attachment::{Attachment, Outlook, Request},
        failure::after,
        group::Rules,
        older,
        orders::Orders,
        reload::{self, Reload},
        watch::{GiveUp, watch},
    },
    survey::{address::Bind, port::Port},
    sys::{
        descriptors, netns,
        privilege::{self, Capability},
    },
};

/// How long `--no-wait` waits for what passes by itself, such as the end of a reload.
const PASSING: Duration = Duration::from_secs(10);

/// What is lost without migration.
const WITHOUT: &str = "connections that wait on a listener that closes are reset, as without steer";

/// Arguments of `steer attach`.
#[derive(Args, Debug)]
pub struct AttachArgs {
    /// TCP port to steer
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How a worker is chosen for each new connection
    #[arg(long, value_enum, default_value_t = PolicyArg::Least)]
    policy: PolicyArg,
    /// Steer only the listeners that are bound to this local address (127.0.0.1, ::), to this
    /// network device (%eth0), or to both (fe80::1%eth0)
    #[arg(long, value_name = "ADDR|%DEVICE")]
    bind: Option<Bind>,
    /// Don't wait: fail if nothing listens on the port yet (exit code 4), or if what listens there
    /// can't be steered within 10 s (exit code 5)
    #[arg(long)]
    no_wait: bool,
    /// Skip a worker for which connections wait and which has accepted none for this long (500ms,
    /// 2s), until it accepts again; 0: never skip it for that
    #[arg(long, value_name = "TIME", default_value = "1s")]
    eject_after: Span,
    /// How many leading bits of the client's address `sticky` goes by, for IPv4 and IPv6
    #[arg(long, value_name = "V4/V6", default_value = "32/64")]
    sticky_prefix: StickyPrefix,
    /// Whether connections that wait on a listener that closes move to other workers
    #[arg(long, value_enum, default_value_t = MigrateArg::Auto)]
    migrate: MigrateArg,
    /// Leave the port steered when this command is stopped; `steer detach` ends that
    #[arg(long)]
    keep: bool,
    /// Take the place of another program that chooses the workers; it can't be restored afterwards
    #[arg(long)]
    replace: bool,
    /// Go on by the rules that are pinned: what SIGHUP executes, with the descriptor of the port's lock
    #[arg(long, hide = true, value_name = "LOCK", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "-1")]
    resumes: Option<RawFd>,
    /// Only tell whether this steer can go on where one stops whose maps have this layout
    #[arg(long, hide = true, value_name = "LAYOUT")]
    can_resume: Option<u32>,
}

impl AttachArgs {
    /// What is to be steered, in the words of messages.
    fn subject(&self) -> String {
        match &self.bind {
            Some(bind) => bind.of(self.port),
            None => format!("tcp port {}", self.port),
        }
    }
}

/// Steers until SIGINT or SIGTERM. SIGHUP executes steer's file again in the same process.
pub fn run(args: &AttachArgs) -> anyhow::Result<()> {
    if let Some(layout) = args.can_resume {
        return can_resume(layout);
    }
    descriptors::provide()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, steer(args))
}

/// Answers the steer that asks whether this one can take its place. That steer goes on steering,
/// and judges the answer.
fn can_resume(layout: u32) -> anyhow::Result<()> {
    if !older::can_be_taken_over(layout.into()) {
        let who = if layout > LAYOUT {
            "a newer version made them"
        } else {
            "the version that made them is too old for this one to take over; upgrade over one in between"
        };
        let what =
            format!("the maps in use have layout {layout}, and this steer's have {LAYOUT}: {who}");
        return Err(Fail::new(Exit::Held, what).into());
    }
    privilege::require(&capabilities())?;
    Kernel::read()?;
    object::bytes()?;
    Ok(data(&reload::answer_with(LAYOUT))?)
}

async fn steer(args: &AttachArgs) -> anyhow::Result<()> {
    // This comes first. Signals that the former steer of this process didn't receive wait until
    // then.
    let mut orders = Orders::listen().context("failed to wait for signals")?;
    privilege::require(&capabilities())?;
    // After a reload, a device that has gone since is no reason to give up what is steered.
    if let (Some(bind), None) = (&args.bind, args.resumes) {
        bind.require_device()?;
    }
    // Until steer waits for events, it shows a watchdog each step that may take long.
    supervisor::alive();
    let kernel = Kernel::read()?;
    supervisor::alive();
    let reload = Reload::new().context("failed to find this program's own file")?;
    let migrates = migrates(args.migrate);
    let request = Request {
        port: Port {
            netns_cookie: netns::cookie().context("failed to identify the network namespace")?,
            port: args.port,
        },
        bind: args.bind.clone(),
        rules: Rules {
            policy: args.policy.into(),
            eject_after: args.eject_after.into(),
            sticky_v4: u32::from(args.sticky_prefix.v4),
            sticky_v6: u32::from(args.sticky_prefix.v6),
        },
        migrates: *migrates.as_ref().unwrap_or(&false),
        replace: args.replace,
        resumes: args.resumes.is_some(),
        lock: args.resumes,
    };
    supervisor::alive();
    let resumes = request.resumes;
    let (mut attachment, ring) = Attachment::open(request, kernel)?;
    supervisor::alive();
    let adopted = attachment.is_adopted();
    if adopted && !resumes {
        message(&format!(
            "taking over tcp port {}, which an earlier steer left steered",
            args.port
        ));
    }
    let begun = attachment.begin().and_then(|outlook| {
        if outlook.groups == 0 && args.no_wait && !adopted && !resumes {
            let what = format!(
                "nothing listens on {}{}; without --no-wait, attach waits for a listener",
                args.subject(),
                absent::udp(args.port)
            );
            return Err(Fail::new(Exit::NothingThere, what).into());
        }
        Ok(outlook)
    });
    let outlook = match begun {
        Ok(outlook) => outlook,
        Err(error) if adopted => {
            // What the earlier steer has left goes on as it was.
            attachment.keep();
            return Err(error);
        }
        Err(error) => {
            let undone = attachment
                .detach()
                .with_context(|| format!("run `steer detach --port {}`", args.port));
            return Err(after(error, undone));
        }
    };
    if let Err(why) = migrates {
        message(&format!("warning: {why}; {WITHOUT}"));
    }
    tell_what_is_awaited(args, &outlook);
    let give_up = (args.no_wait && !adopted).then(|| GiveUp {
        at: Instant::now() + PASSING,
        subject: args.subject(),
        after: PASSING,
    });
    let mut supervisor = Supervisor::default();
    let result = watch(
        &mut attachment,
        ring,
        outlook,
        &mut orders,
        &reload,
        &mut supervisor,
        give_up,
    )
    .await;
    supervisor.stopping();
    if args.keep && (result.is_ok() || attachment.steers()) {
        attachment.keep();
        message(&format!(
            "tcp port {} stays steered; `steer detach --port {}` ends it",
            args.port, args.port
        ));
    } else {
        attachment.detach().with_context(|| {
            format!("failed to detach; try `steer detach --port {}`", args.port)
        })?;
    }
    result
}

fn tell_what_is_awaited(args: &AttachArgs, outlook: &Outlook) {
    let what = args.subject();
    if outlook.groups == 0 {
        let udp = absent::udp(args.port);
        message(&format!("waiting for a listener on {what}{udp}"));
    } else if let Some(awaited) = &outlook.awaited {
        message(&format!("waiting for a worker on {what}: {awaited}"));
    }
}

/// Whether waiting connections are to migrate. If they can't, the error says why.
fn migrates(wish: MigrateArg) -> Result<bool, String> {
    match wish {
        MigrateArg::On => Ok(true),
        MigrateArg::Off => Ok(false),
        MigrateArg::Auto => match migration::trial() {
            Ok(Trial::Sound) => Ok(true),
            Ok(trial @ (Trial::NotWoken | Trial::Lost)) => Err(trial.describe().to_owned()),
            Err(error) => Err(format!("failed to {:#}", anyhow::Error::from(error))),
        },
    }
}

/// The capabilities that `steer attach` needs.
pub(super) fn capabilities() -> Vec<Capability> {
    let mut required = vec![
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysPtrace,
        Capability::DacReadSearch,
    ];
    required.extend(bpffs::required(Use::Write));
    if matches!(bpffs::existing_root(), Ok(None)) && !bpffs::is_system_mounted() {
        required.push(Capability::SysAdmin);
    }
    required
}
