//! Arguments that several commands take, and arguments that have a form of their own.

use std::{str::FromStr, time::Duration};

use clap::ValueEnum;
use steer_common::policy::Policy;

/// A policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyArg {
    /// The worker that would begin first: one whose event loop waits, else one whose work ends first
    Least,
    /// Each worker in turn
    Rr,
    /// Of two workers drawn at random, the one that would begin first
    P2c,
    /// Always the same worker for a client's address
    Sticky,
    /// By addresses and ports, as the kernel does, but only among workers that may be selected
    Hash,
}

impl From<PolicyArg> for Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Least => Self::Least,
            PolicyArg::Rr => Self::Rr,
            PolicyArg::P2c => Self::P2c,
            PolicyArg::Sticky => Self::Sticky,
            PolicyArg::Hash => Self::Hash,
        }
    }
}

/// Whether connections that wait on a listener that closes move to other workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MigrateArg {
    /// They move if a trial finds that this kernel does so soundly
    Auto,
    /// They move, whatever the trial would find
    On,
    /// They don't move: they are reset, as without steer
    Off,
}

/// A span of time: a whole number with `ms` or `s`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected a whole number with ms or s, such as 500ms or 2s, or 0";
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => (number, 1),
            (None, Some(number)) => (number, 1000),
            (None, None) => return Err(FORM),
        };
        let number: u32 = number
            .parse()
            .map_err(|_not_a_number: std::num::ParseIntError| FORM)?;
        Ok(Self(Duration::from_millis(u64::from(number) * unit)))
    }
}

/// How many leading bits of a client's address `sticky` goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyPrefix {
    /// Leading bits of an IPv4 address, at most 32.
    pub v4: u8,
    /// Leading bits of an IPv6 address, at most 128.
    pub v6: u8,
}

impl FromStr for StickyPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected two prefix lengths, for IPv4 and IPv6, such as 32/64 or 24/48";
        let (v4, v6) = text.split_once('/').ok_or(FORM)?;
        let bits = |text: &str, most: u8| {
            let bits: u8 = text.parse().ok()?;
            (bits <= most).then_some(bits)
        };
        Ok(Self {
            v4: bits(v4, 32).ok_or(FORM)?,
            v6: bits(v6, 128).ok_or(FORM)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let span = |text: &str| text.parse::<Span>().map(Duration::from);
        assert_eq!(span("0"), Ok(Duration::ZERO));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(span("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "2", "s", "ms", "-1s", "1.5s", "1m", "99999999999s"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sticky_prefixes() {
        assert_eq!("24/48".parse(), Ok(StickyPrefix { v4: 24, v6: 48 }));
        assert_eq!("0/0".parse(), Ok(StickyPrefix { v4: 0, v6: 0 }));
        for wrong in ["", "24", "33/64", "24/129", "-1/0", "24/48/1"] {
            assert!(wrong.parse::<StickyPrefix>().is_err(), "{wrong}");
        }
    }
}
