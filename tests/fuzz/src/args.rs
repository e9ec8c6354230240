//! The command line. Each line of the input is an argument.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path},
    time::Duration,
};

use clap::Parser as _;
use steer_user::{
    cli::{
        args::{Span, StickyPrefix},
        parse::{Cli, Command},
    },
    steering::reload::without_netns,
    survey::address::Bind,
    sys::netns::Netns,
};

pub(crate) fn check(input: &[u8]) {
    let args: Vec<OsString> = input
        .split(|byte| *byte == b'\n')
        .map(|arg| OsString::from_vec(arg.to_vec()))
        .collect();
    line(&args);
    for arg in args.iter().filter_map(|arg| arg.to_str()) {
        span(arg);
        sticky_prefix(arg);
        netns(arg);
        bind(arg);
    }
}

fn parsed(args: &[OsString]) -> Option<Cli> {
    let line = [OsString::from("steer")].into_iter();
    Cli::try_parse_from(line.chain(args.iter().cloned())).ok()
}

/// What SIGHUP executes means the same, in the namespace that the process is in already.
fn line(args: &[OsString]) {
    let Some(cli) = parsed(args) else { return };
    if !matches!(cli.command, Command::Attach(_)) {
        return;
    }
    let kept = without_netns(args.iter().cloned());
    let again = parsed(&kept).expect("a command line that was good before");
    assert_eq!(again.netns, None, "{kept:?}");
    assert_eq!(
        format!("{:?}", again.command),
        format!("{:?}", cli.command),
        "{kept:?}"
    );
}

fn span(text: &str) {
    let Ok(span) = text.parse::<Span>() else {
        return;
    };
    let duration = Duration::from(span);
    assert!(duration <= Duration::from_secs(u64::from(u32::MAX)));
    let milliseconds = duration.as_millis();
    if milliseconds <= u128::from(u32::MAX) {
        assert_eq!(format!("{milliseconds}ms").parse(), Ok(span));
    } else {
        assert_eq!(format!("{}s", duration.as_secs()).parse(), Ok(span));
    }
}

fn sticky_prefix(text: &str) {
    let Ok(prefix) = text.parse::<StickyPrefix>() else {
        return;
    };
    assert!(prefix.v4 <= 32 && prefix.v6 <= 128);
    assert_eq!(format!("{}/{}", prefix.v4, prefix.v6).parse(), Ok(prefix));
}

/// What `--bind` names is shown as it would be written.
fn bind(text: &str) {
    let Ok(bind) = text.parse::<Bind>() else {
        return;
    };
    assert_eq!(bind.to_string().parse(), Ok(bind));
}

/// A name never leads out of the directory of names.
fn netns(text: &str) {
    let Ok(netns) = text.parse::<Netns>() else {
        return;
    };
    let file = netns.file();
    if text.contains('/') {
        assert_eq!(file, Path::new(text));
    } else {
        let named = file.parent() == Some(Path::new("/run/netns"));
        let of_process = file.starts_with("/proc") && file.ends_with("ns/net");
        assert!(named || of_process, "{}", file.display());
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(file.components().all(plain), "{}", file.display());
    }
}
