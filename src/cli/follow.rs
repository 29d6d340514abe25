//! Batches followed to their end: on a terminal as bars, else as lines.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::client::{self, Daemon};
use super::{EX_FAILURE, EX_UNAVAILABLE, Failure, print};
use crate::clock;
use crate::config::Config;
use crate::formats;
use crate::gate::units::BootMs;
use crate::report::batches::BatchOut;

/// How often a batch is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a daemon that does not answer is waited for, in milliseconds: a restart, with what is
/// in flight drained before it.
const AWAY_MAX_MS: u64 = 60_000;

/// How long an id is waited for of which nobody knows: a dropped file is taken in within seconds.
const UNKNOWN_MAX_MS: u64 = 15_000;

/// Over how long a batch's rate is measured.
const RATE_MS: u64 = 60_000;

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// A bar for each batch, on stderr.
    Bars,
    /// A JSON document on a line of stdout for each change.
    Lines,
    /// A line of words on stderr for each change of what holds it.
    Words,
    /// Not at all.
    Nothing,
}

impl Show {
    /// Bars on a terminal, else lines.
    pub(super) fn of_terminal(json: bool) -> Self {
        if std::io::stderr().is_terminal() && !json { Self::Bars } else { Self::Lines }
    }
}

/// Follows batches until all are over; the exit code: 0 when every item was answered, 2 when some
/// were not, 1 when a batch was cancelled or rejected.
pub(super) async fn follow(config: &Config, ids: &[String], show: Show) -> Result<u8, Failure> {
    let ended = follow_all(config, ids, show).await?;
    Ok(exit_code(&ended))
}

/// The same; what became of them, in their order. A file that was rejected before there was a batch
/// of it is told and left out.
pub(super) async fn follow_all(
    config: &Config,
    ids: &[String],
    show: Show,
) -> Result<Vec<Ended>, Failure> {
    let mut link = Link { config, daemon: None, away_since: None, unknown: BTreeMap::new() };
    let mut screen = Screen::new(show, ids.len());
    let mut ended = BTreeMap::new();
    loop {
        for id in ids {
            if ended.contains_key(id) {
                continue;
            }
            match link.look(id).await? {
                Seen::Batch(batch) => {
                    screen.show(id, &batch);
                    if batch.is_over() {
                        ended.insert(id.clone(), Ended::Batch(batch));
                    }
                }
                Seen::Rejected(why) => {
                    eprintln!("tidegate: batch {id} was rejected: {why}");
                    screen.rejected(id, &why);
                    ended.insert(id.clone(), Ended::Rejected);
                }
                Seen::NotYet => {}
            }
        }
        if ids.iter().all(|id| ended.contains_key(id)) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(ids.iter().filter_map(|id| ended.remove(id)).collect())
}

/// How a followed batch ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As a batch.
    Batch(Box<BatchOut>),
    /// Its file was rejected before there was one.
    Rejected,
}

/// The worst of what became of several.
pub(super) fn exit_code(ended: &[Ended]) -> u8 {
    let code = |ended: &Ended| match ended {
        Ended::Rejected => EX_FAILURE,
        Ended::Batch(batch) => match batch.state.as_str() {
            "done" | "failed" if batch.succeeded == batch.items => 0,
            "done" | "failed" => super::EX_PARTIAL,
            _ => EX_FAILURE,
        },
    };
    let codes: Vec<_> = ended.iter().map(code).collect();
    if codes.contains(&EX_FAILURE) { EX_FAILURE } else { codes.into_iter().max().unwrap_or(0) }
}

/// What a look at a batch found.
enum Seen {
    Batch(Box<BatchOut>),
    /// Its file was, with the reason.
    Rejected(String),
    NotYet,
}

/// The way to the daemon, which may end and come back.
struct Link<'a> {
    config: &'a Config,
    daemon: Option<Daemon>,
    away_since: Option<BootMs>,
    /// Since when nobody knows of a batch.
    unknown: BTreeMap<String, BootMs>,
}

impl Link<'_> {
    async fn look(&mut self, id: &str) -> Result<Seen, Failure> {
        if self.daemon.is_none() {
            self.daemon = client::daemon(self.config).await?;
        }
        let Some(daemon) = &self.daemon else { return self.away(id).await };
        match daemon.find::<BatchOut>(&super::batches::path_of(id, "")).await {
            Ok(Some(batch)) => {
                self.back();
                self.unknown.remove(id);
                Ok(Seen::Batch(Box::new(batch)))
            }
            Ok(None) => {
                self.back();
                self.unknown(id)
            }
            Err(failure) if failure.code == EX_UNAVAILABLE => {
                self.daemon = None;
                self.away(id).await
            }
            Err(failure) => Err(failure),
        }
    }

    fn back(&mut self) {
        if self.away_since.take().is_some() {
            eprintln!("tidegate: the daemon answers again");
        }
    }

    /// Nobody answers: what the database says is over is over, and the rest is waited for.
    async fn away(&mut self, id: &str) -> Result<Seen, Failure> {
        let read = super::batches::from_database(self.config, id).await;
        if let Some(batch) = read.filter(BatchOut::is_over) {
            return Ok(Seen::Batch(Box::new(batch)));
        }
        let now = clock::now().boot;
        let Some(since) = self.away_since else {
            let seconds = AWAY_MAX_MS / 1_000;
            eprintln!(
                "tidegate: no daemon answers, and nothing is sent until one does: waiting for it, \
                for up to {seconds} s"
            );
            self.away_since = Some(now);
            return Ok(Seen::NotYet);
        };
        if since.until(now) < AWAY_MAX_MS {
            return Ok(Seen::NotYet);
        }
        let why = format!(
            "no daemon answers: batch {id} is kept; start one (tidegate serve), and go on with \
            `tidegate batches follow {id}`"
        );
        Err(Failure::new(EX_UNAVAILABLE, why))
    }

    /// The daemon does not know of it: its file is not taken in yet, or was rejected.
    fn unknown(&mut self, id: &str) -> Result<Seen, Failure> {
        let now = clock::now().boot;
        let root = &self.config.server.spool_dir;
        let (waits, rejected) = tokio::task::block_in_place(|| {
            (is_incoming(&root.join("incoming"), id), rejection(&root.join("rejected"), id))
        });
        if waits {
            if self.unknown.insert(id.to_owned(), now).is_none() {
                eprintln!("tidegate: the file of batch {id} is in incoming/: waiting for it");
            }
            return Ok(Seen::NotYet);
        }
        if let Some(why) = rejected {
            return Ok(Seen::Rejected(why));
        }
        let since = *self.unknown.entry(id.to_owned()).or_insert(now);
        if since.until(now) < UNKNOWN_MAX_MS {
            return Ok(Seen::NotYet);
        }
        Err(Failure::new(EX_FAILURE, super::batches::no_batch(id)))
    }
}

/// Whether a file of this batch is in `incoming/`, as far as this user may see.
fn is_incoming(incoming: &std::path::Path, id: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(incoming) else { return false };
    let is_its = |path: std::path::PathBuf| {
        let named = path.to_str().is_some_and(|path| path.ends_with(formats::SIDECAR_SUFFIX));
        named && std::fs::read_to_string(path).is_ok_and(|text| text.contains(id))
    };
    entries.filter_map(Result::ok).any(|entry| is_its(entry.path()))
}

/// Why the file of this batch was rejected before there was one.
fn rejection(rejected: &std::path::Path, id: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told {
        batch: Option<String>,
        reason: String,
    }
    let entries = std::fs::read_dir(rejected).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        let told = path.to_str().is_some_and(|path| path.ends_with(".error.json"));
        let text = std::fs::read(&path).ok().filter(|_| told)?;
        let told: Told = serde_json::from_slice(&text).ok()?;
        (told.batch.as_deref() == Some(id)).then_some(told.reason)
    })
}

/// What is shown of the batches.
struct Screen {
    show: Show,
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
    last: BTreeMap<String, String>,
    rates: BTreeMap<String, VecDeque<(BootMs, u64)>>,
    several: bool,
}

impl Screen {
    fn new(show: Show, count: usize) -> Self {
        let (bars, last, rates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { show, all: MultiProgress::new(), bars, last, rates, several: count > 1 }
    }

    fn show(&mut self, id: &str, batch: &BatchOut) {
        let rate = self.rate(id, batch.ended());
        match self.show {
            Show::Nothing => {}
            Show::Lines => {
                let line = serde_json::to_string(batch).expect("reports are JSON");
                self.changed(id, line, |line| print(&format!("{line}\n")));
            }
            Show::Words => {
                let (state, file) = (&batch.state, batch.file.escape_debug());
                let held = held(batch).map(|why| format!(", {why}")).unwrap_or_default();
                let line = format!("{file} is {state}{held}");
                self.changed(id, line, |line| eprintln!("{line}"));
            }
            Show::Bars => {
                let several = self.several;
                let bar = self.bars.entry(id.to_owned()).or_insert_with(|| {
                    let bar = self.all.add(ProgressBar::no_length());
                    let template = "{prefix}{bar:24} {pos}/{len} {wide_msg}";
                    if let Ok(style) = ProgressStyle::with_template(template) {
                        bar.set_style(style);
                    }
                    if several {
                        bar.set_prefix(format!("{} ", batch.file.escape_debug()));
                    }
                    bar
                });
                bar.set_length(batch.items);
                bar.set_position(batch.ended());
                bar.set_message(words(batch, rate));
                if batch.is_over() {
                    bar.abandon();
                }
            }
        }
    }

    fn rejected(&mut self, id: &str, why: &str) {
        if self.show == Show::Lines {
            let line = serde_json::json!({"id": id, "state": "rejected", "stopped": why});
            print(&format!("{line}\n"));
        }
    }

    fn changed(&mut self, id: &str, line: String, tell: impl FnOnce(&str)) {
        if self.last.get(id) != Some(&line) {
            tell(&line);
            self.last.insert(id.to_owned(), line);
        }
    }

    /// Items that came to their end in a minute, by the last minute.
    fn rate(&mut self, id: &str, ended: u64) -> Option<u64> {
        let now = clock::now().boot;
        let looks = self.rates.entry(id.to_owned()).or_default();
        looks.push_back((now, ended));
        while looks.front().is_some_and(|(at, _)| at.until(now) > RATE_MS) {
            looks.pop_front();
        }
        let (since, before) = looks.front()?;
        let passed = since.until(now);
        // Within the first seconds it would say anything.
        (passed >= 3_000).then(|| ended.saturating_sub(*before).saturating_mul(60_000) / passed)
    }
}

/// A batch in the words behind its bar.
fn words(batch: &BatchOut, rate: Option<u64>) -> String {
    if batch.is_over() || batch.state == "importing" {
        let counts = counts(batch);
        return std::iter::once(batch.state.clone()).chain(counts).collect::<Vec<_>>().join(", ");
    }
    let mut parts = counts(batch);
    parts.extend(rate.map(|rate| format!("{rate}/min")));
    let eta = batch.eta.as_ref().and_then(|eta| eta.high.or(eta.low));
    parts.extend(eta.map(|at| format!("done by {}", at.format("%a %H:%M UTC"))));
    parts.extend(held(batch));
    parts.join(", ")
}

fn counts(batch: &BatchOut) -> Vec<String> {
    let counts =
        [(batch.failed, "failed"), (batch.blocked, "blocked"), (batch.cancelled, "cancelled")];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!("{count} {what}")).collect()
}

/// What holds a batch, or else what its forecast says that binds.
fn held(batch: &BatchOut) -> Option<String> {
    if let Some(why) = &batch.paused {
        return Some(format!("{} held: {}", batch.queued, why.escape_debug()));
    }
    if let Some(why) = &batch.reason {
        let until = batch.waiting_until;
        let until = until.map(|at| format!(" until {}", at.format("%H:%M:%S UTC")));
        let (count, until) = (batch.queued, until.unwrap_or_default());
        return Some(format!("{count} held{until} ({})", why.escape_debug()));
    }
    batch.binds.as_ref().map(|what| format!("{} binds", what.escape_debug()))
}
