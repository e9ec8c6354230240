//! A port, what is done to it, and what was seen of it.

mod act;
mod check;
mod lead;
mod verdict;

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use steer_user::survey::port::Port as Key;

use super::{
    crew::Crew,
    loader::Footprint,
    model::{Model, Unit},
    objects::Object,
    place::Place,
    share::Held,
    words::Kind,
};
use crate::{
    churn::{
        ends::Ends,
        load::{Load, Plan},
    },
    packet,
    steer::Attach,
    workers::local,
};

pub use self::lead::Begun;

/// Connections a second.
const RATE: u32 = 80;

/// How long a connection of the load may wait: a worker is stopped for as long as two steps take.
const HUNG: Duration = Duration::from_secs(90);

/// How long to look whether what must come comes at all, on a machine that may be busy with anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port, what is done to it, and what was seen of it.
#[derive(Debug)]
pub struct Port {
    place: Rc<Place>,
    number: u16,
    /// What must be so.
    pub model: Model,
    crew: Crew,
    loader: Option<Attach>,
    load: Option<Load>,
    probes: packet::Sender,
    /// Connections that stay open from step to step.
    held: Vec<Held>,
    /// When steer steered nothing.
    unsteered: Vec<(Duration, Option<Duration>)>,
    /// Every object of the kernel that was steer's.
    objects: BTreeSet<Object>,
    /// Of the loader that runs, after its first step.
    first: Option<Footprint>,
    loaders: usize,
    growth: u64,
    /// The most that a loader had open besides what it started with.
    descriptors: usize,
    /// Comparisons of counts, and the connections that were open in all of them.
    compared: (usize, u64),
    ends: Ends,
    excused: usize,
}

impl Port {
    /// Starts a unit of each of these kinds and connections to them; nothing is steered yet.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start(place: &Rc<Place>, number: u16, kinds: &[Kind]) -> anyhow::Result<Self> {
        place.enter()?;
        let mut crew = Crew::new(number);
        let mut model = Model::new();
        for &kind in kinds {
            model.join(Unit::new(kind, crew.start(kind)?));
        }
        let plan = Plan {
            within: HUNG,
            ..Plan::at(RATE)
        };
        Ok(Self {
            place: Rc::clone(place),
            number,
            model,
            crew,
            loader: None,
            load: Some(Load::start_plan(local(number), plan)),
            probes: packet::Sender::new()?,
            held: Vec::new(),
            unsteered: vec![(Duration::ZERO, None)],
            objects: BTreeSet::new(),
            first: None,
            loaders: 0,
            growth: 0,
            descriptors: 0,
            compared: (0, 0),
            ends: Ends::default(),
            excused: 0,
        })
    }

    /// How steer knows it.
    pub fn key(&self) -> Key {
        Key {
            netns_cookie: self.place.cookie,
            port: self.number,
        }
    }

    /// Its name in the story of a run.
    pub fn name(&self) -> String {
        format!("port {} of namespace {}", self.number, self.place.cookie)
    }

    /// Has the clients open no connections for a while, or do again.
    pub fn quiet(&self, quiet: bool) {
        if let Some(load) = &self.load {
            load.pause(quiet);
        }
    }

    /// Connections to listeners that are gone, or that were shut down, are of no more use.
    fn let_go(&mut self, unit: &Unit) {
        let marks: Vec<u32> = unit
            .listeners
            .iter()
            .map(|listener| listener.mark)
            .collect();
        self.held.retain(|held| !marks.contains(&held.mark));
    }
}
