//! Rules of admission beside one another: what each is refused, and what it makes of a limit.
//!
//! Every rule has the same backlog without end and the same network. Items wait in one line; with
//! large ones among them, 200 of the line are looked at, and what fits goes if it also fits beside
//! the head when that goes. What is refused is gone, and does not count for the provider.

use fastrand::Rng;

use crate::client::GateClient;
use crate::naive::{GovernorClient, Naive, NaiveClient};
use crate::oracle::Shape;
use crate::run::{Manner, Outcome, Run};
use crate::wanted;
use crate::world::{Answers, MINUTE, World};

const LIMITS: [u64; 3] = [5, 15, 60];

/// What the use of the gate is not to fall below.
const UNIT_PERMILLE: u64 = 960;
const LARGE_PERMILLE: u64 = 900;

/// A rule by its name in the table.
type Rule = (&'static str, fn(&World, Rng) -> Outcome);

const RULES: [Rule; 5] = [
    ("tidegate", |world, rng| {
        Run::new(world, GateClient::new(world, None), rng, Manner::default()).play()
    }),
    ("log of sends, 60 s", |world, rng| {
        Run::new(world, NaiveClient::new(world, Naive::Log), rng, Manner::default()).play()
    }),
    ("the same at 0.9", |world, rng| {
        Run::new(world, NaiveClient::new(world, Naive::CautiousLog), rng, Manner::default()).play()
    }),
    ("GCRA (`governor`)", |world, rng| {
        Run::new(world, GovernorClient::new(world), rng, Manner::default()).play()
    }),
    ("own fixed minute", |world, rng| {
        Run::new(world, NaiveClient::new(world, Naive::FixedMinute), rng, Manner::default()).play()
    }),
];

/// One cell: in permille, what was refused of all that was sent, and what was accepted of what the
/// clairvoyant could have had.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    refused: u64,
    sent: u64,
    used: u64,
    bound: u64,
}

impl Cell {
    /// Whoever knows everything sends a limit's worth at once and again each minute. Of several
    /// limits, the one that binds counts.
    fn add(&mut self, world: &World, outcome: &Outcome) {
        let refused = u64::try_from(outcome.refused.len()).expect("a count");
        self.refused += refused;
        self.sent += refused + outcome.accepted;
        let minutes = world.length_ms / MINUTE + 1;
        let permille =
            |pair: &crate::world::Pair| outcome.taken[pair.metric] * 1_000 / (pair.limit * minutes);
        self.used += world.pairs.iter().map(permille).max().unwrap_or(0);
        self.bound += 1;
    }

    fn refused_permille(&self) -> u64 {
        (self.refused * 1_000).div_ceil(self.sent.max(1))
    }

    fn used_permille(&self) -> u64 {
        self.used / self.bound.max(1)
    }
}

fn shapes(rng: &mut Rng) -> [Shape; 4] {
    let phase_ms = rng.u64(0..MINUTE);
    [Shape::Fixed { phase_ms }, Shape::HalfOpen, Shape::Closed, Shape::TokenBucket]
}

/// A limit and a load, with what each rule makes of each shape.
struct Part {
    limit: u64,
    large: bool,
    rows: Vec<(&'static str, [Cell; 4])>,
}

fn measure(limit: u64, large: bool, rules: &[Rule], length_ms: u64, seeds: u64) -> Part {
    let measured = |rule: fn(&World, Rng) -> Outcome| {
        let mut cells = [Cell::default(); 4];
        for seed in 0..seeds {
            let shapes = shapes(&mut Rng::with_seed(50_000 + seed));
            for (cell, shape) in cells.iter_mut().zip(shapes) {
                let draw = if large { World::backlog_with_large } else { World::backlog };
                let answers = Answers::Mixed;
                let world = World { answers, length_ms, ..draw(limit, shape) };
                let outcome = rule(&world, Rng::with_seed(51_000 + seed));
                cell.add(&world, &outcome);
            }
        }
        cells
    };
    let rows = rules.iter().map(|(name, rule)| (*name, measured(*rule))).collect();
    Part { limit, large, rows }
}

/// As rows: load, limit, rule, and per shape what is refused, in percent, and what is used.
fn print(part: &Part) {
    let Part { limit, large, rows } = part;
    let load = if *large { "10 % large" } else { "unit items" };
    let limit = if *large { format!("{limit}k TPM") } else { format!("{limit} RPM") };
    for (name, cells) in rows {
        let percent = |permille: u64| format!("{}.{}", permille / 10, permille % 10);
        let cell = |cell: &Cell| {
            let (refused, used) = (cell.refused_permille(), cell.used_permille());
            format!("{} ({})", percent(refused), percent(used))
        };
        let cells: Vec<_> = cells.iter().map(cell).collect();
        eprintln!("| {load} | {limit} | {name} | {} |", cells.join(" | "));
    }
}

/// What the table is to show of the gate, and that the others are worse.
fn holds(part: &Part) {
    let least = if part.large { LARGE_PERMILLE } else { UNIT_PERMILLE };
    let (name, gate) = part.rows[0];
    assert_eq!(name, "tidegate");
    for cell in gate {
        assert_eq!(cell.refused, 0, "{} a minute", part.limit);
        let used = cell.used_permille();
        assert!(used >= least, "{used} ‰ of {} a minute, large: {}", part.limit, part.large);
    }
    for (name, cells) in &part.rows[1..] {
        let refused = cells.iter().any(|cell| cell.refused > 0);
        assert!(refused, "{name} is refused nothing at {} a minute", part.limit);
    }
}

/// All of it when the task asks; else what shows that it holds, in less time.
fn show(large: bool) {
    let full = wanted("TIDEGATE_SIM_TABLE").is_some();
    let (length_ms, seeds) = if full { (180 * MINUTE, 6) } else { (30 * MINUTE, 1) };
    for limit in LIMITS {
        let rules = if full || limit == 15 { &RULES[..] } else { &RULES[..1] };
        let part = measure(limit, large, rules, length_ms, seeds);
        print(&part);
        holds(&part);
    }
}

#[test]
fn the_table_of_unit_items() {
    show(false);
}

#[test]
fn the_table_with_large_items() {
    show(true);
}
