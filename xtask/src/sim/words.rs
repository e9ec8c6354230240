//! The simulator's values by their names, as arguments of commands.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use steer_common::sim::{Discipline, Part};

/// Parses a [`Discipline`] by its name.
pub(crate) fn discipline() -> impl TypedValueParser<Value = Discipline> {
    by_name(&Discipline::ALL, |discipline| {
        let help = match discipline {
            Discipline::Random => "Any worker for any connection: what the kernel's hash comes to",
            Discipline::Rr
            | Discipline::P2c
            | Discipline::Least
            | Discipline::Sticky
            | Discipline::Hash => "steer's policy of that name",
            Discipline::Jsq => {
                "Join the shortest queue: the worker with the fewest requests to answer, which nobody knows"
            }
            Discipline::Central => "One queue of requests, taken by whoever is free: the ideal",
        };
        (discipline.name(), help)
    })
}

/// Parses a [`Part`] by its name.
pub(crate) fn part() -> impl TypedValueParser<Value = Part> {
    by_name(&Part::ALL, |part| {
        let help = match part {
            Part::Loops => "What event loops do: without it only open connections are known",
            Part::Age => "When the job in hand began: without it each has a mean job before it",
            Part::Learning => "How long jobs take: without it nothing is ever learned",
            Part::Fresh => "Which connections have not been read from",
            Part::Ready => "On which others a request waits",
        };
        (part.name(), help)
    })
}

/// Parses one of these values by its name. `words` gives the name, and what the help says of the
/// value.
fn by_name<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    words: fn(T) -> (&'static str, &'static str),
) -> impl TypedValueParser<Value = T> {
    let possible = values.iter().map(move |value| {
        let (name, help) = words(*value);
        PossibleValue::new(name).help(help)
    });
    PossibleValuesParser::new(possible).try_map(move |name| {
        let mut values = values.iter().copied();
        values
            .find(|value| words(*value).0 == name)
            .ok_or("there is no such value")
    })
}
