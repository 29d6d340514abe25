//! The provider's state: who calls, what was counted, what was answered. No clock and no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::Now;
use super::day::date_of;
use super::draw::{Purpose, draw_share, draw_up_to, index_of};
use super::external::{self, Stream};
use super::fault::{FaultKind, FaultQueue};
use super::limits::{Limits, Model};
use super::quota::{ModelQuota, Violation, Weight};
use super::refusal::Refusal;
use super::stats::{Counts, Entry, ProjectStats, Stats, WorstWindow, worst_windows};
use super::window::WindowKind;

/// Most entries of the log, about 250 MB; later calls are answered and counted all the same.
const MAX_LOG: usize = 1_000_000;

/// Most models and most keys told apart where the limits accept any; the rest share one name.
const MAX_NAMES: usize = 1_000;

/// Whoever owns the key of a call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) project: Arc<str>,
    /// A name for the key, never the key.
    pub(super) key: Arc<str>,
    project_index: usize,
}

/// A call as far as it was understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) at_ms: u64,
    /// Its number among the calls that arrived, from 1.
    pub(super) arrival: u64,
    pub(super) call: &'static str,
    pub(super) caller: Option<Caller>,
    pub(super) model: Option<Arc<Model>>,
    pub(super) prompt_sha256: Option<[u8; 32]>,
    /// What the call weighs if it is answered.
    pub(super) weight: Weight,
    pub(super) fault: Option<FaultKind>,
}

/// What the answer is to be, before any limit was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Planned {
    /// An answer to a prompt, if the limits have room; then it counts with its whole weight.
    Answer { output_tokens: u64, images: u64 },
    /// A failure that counts as one request (400 and 5xx; 429 if the limits file says so).
    Failure(u16),
    /// A status that no limit knows of.
    Uncounted(u16),
}

/// State of one emulator.
#[derive(Debug)]
pub(super) struct Engine {
    limits: Limits,
    kind: WindowKind,
    minute_ms: u64,
    seed: u64,
    /// By project and the model name that owns the quota.
    quotas: BTreeMap<(Arc<str>, Arc<str>), ModelQuota>,
    /// Models and keys met where any is accepted.
    open_models: BTreeMap<String, Arc<Model>>,
    open_keys: BTreeMap<String, Arc<str>>,
    pub(super) faults: FaultQueue,
    /// Other clients, whose requests up to the last decision are counted.
    streams: Vec<Stream>,
    arrivals: u64,
    totals: Counts,
    projects: BTreeMap<String, ProjectStats>,
    log: Vec<Entry>,
    log_truncated: bool,
    max_log: usize,
}

impl Engine {
    pub(super) fn new(limits: Limits, kind: WindowKind, minute_ms: u64, seed: u64) -> Self {
        Self {
            streams: Stream::all(&limits, seed, minute_ms),
            limits,
            kind,
            minute_ms,
            seed,
            quotas: BTreeMap::new(),
            open_models: BTreeMap::new(),
            open_keys: BTreeMap::new(),
            faults: FaultQueue::default(),
            arrivals: 0,
            totals: Counts::default(),
            projects: BTreeMap::new(),
            log: Vec::new(),
            log_truncated: false,
            max_log: MAX_LOG,
        }
    }

    /// A number for a call that arrived, from 1; its seeded draws hang on it.
    pub(super) fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// The owner of `key`.
    pub(super) fn identify(&mut self, key: &str) -> Result<Caller, Refusal> {
        for (project_index, project) in self.limits.projects.iter().enumerate() {
            if project.revoked_keys.iter().any(|revoked| revoked.0 == key) {
                return Err(Refusal::leaked_key());
            }
            let listed = project.keys.iter().position(|listed| listed.0 == key);
            let name = match (listed, self.limits.open) {
                (Some(position), _) => format!("key-{}", position + 1).into(),
                (None, false) => continue,
                (None, true) => open_key(&mut self.open_keys, key),
            };
            return Ok(Caller { project: project.name.as_str().into(), key: name, project_index });
        }
        Err(Refusal::bad_key())
    }

    /// Revokes a key by its place in the limits file, from 1; false when there is none.
    pub(super) fn revoke(&mut self, project: &str, place: usize) -> bool {
        let named = |known: &&mut super::limits::Project| known.name == project;
        let Some(project) = self.limits.projects.iter_mut().find(named) else { return false };
        let Some(key) = place.checked_sub(1).and_then(|at| project.keys.get(at).cloned()) else {
            return false;
        };
        // It keeps its place: the names of the others go by it.
        project.revoked_keys.push(key);
        true
    }

    /// The quota that `name` uses in the caller's project.
    pub(super) fn find_model(&mut self, caller: &Caller, name: &str) -> Option<Arc<Model>> {
        let project = &self.limits.projects[caller.project_index];
        let is_named = |model: &&Model| {
            model.name == name || model.aliases.iter().any(|alias| alias.as_str() == name)
        };
        if let Some(model) = project.models.iter().find(is_named) {
            return Some(Arc::new(model.clone()));
        }
        if !self.limits.open || name.is_empty() {
            return None;
        }
        let named = |name: &str| Model { name: name.to_owned(), ..Model::default() };
        if self.open_models.len() >= MAX_NAMES && !self.open_models.contains_key(name) {
            return Some(Arc::new(named("other")));
        }
        let model = self.open_models.entry(name.to_owned());
        Some(model.or_insert_with(|| Arc::new(named(name))).clone())
    }

    /// Names of the models of the caller's project, aliases included.
    pub(super) fn model_names(&self, caller: &Caller) -> Vec<String> {
        let listed = self.limits.projects[caller.project_index].models.iter();
        let listed = listed.flat_map(|model| std::iter::once(&model.name).chain(&model.aliases));
        listed.chain(self.open_models.keys()).cloned().collect()
    }

    /// The fault of a call: the next that was ordered, otherwise one by the model's probabilities.
    pub(super) fn take_fault(&mut self, arrival: u64, model: Option<&Model>) -> Option<FaultKind> {
        if let Some(kind) = self.faults.take() {
            return Some(kind);
        }
        let rates = model?.fault;
        let mut share = draw_share(self.seed, Purpose::Fault, arrival);
        for (rate, kind) in [
            (rates.status_503, FaultKind::Unavailable),
            (rates.status_500, FaultKind::Internal),
            (rates.cut, FaultKind::Cut),
            (rates.no_usage, FaultKind::NoUsage),
        ] {
            if share < rate {
                return Some(kind);
            }
            share -= rate;
        }
        None
    }

    /// Decides the call at `now`, counts it and writes it down. `Err` holds every limit that an
    /// answer does not fit into; the call was then a 429.
    pub(super) fn settle(
        &mut self,
        now: Now,
        ask: &Ask,
        planned: Planned,
    ) -> Result<(), Vec<Violation>> {
        self.let_others_in(now);
        let violations = match planned {
            Planned::Answer { .. } => self.violations(now, ask),
            Planned::Failure(_) | Planned::Uncounted(_) => Vec::new(),
        };
        let one_request = Weight { requests: 1, ..Weight::default() };
        let (status, weight, output_tokens) = match planned {
            Planned::Answer { .. } if !violations.is_empty() => (429, ask.weight, 0),
            Planned::Answer { output_tokens, .. } => (200, ask.weight, output_tokens),
            Planned::Failure(status) => (status, one_request, 0),
            Planned::Uncounted(status) => (status, Weight::default(), 0),
        };
        let is_counted = status != 429 || self.limits.count_rejected;
        let weight = if is_counted { weight } else { Weight::default() };
        if let Some(quota) = self.quota(ask)
            && weight != Weight::default()
        {
            quota.count(now, weight);
        }
        self.tally(ask, planned, status, output_tokens);
        self.write(now, ask, status, weight);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    /// Corrects an accepted call, decided at `counted_ms`, once its answer holds `came` images and
    /// not those asked for.
    pub(super) fn amend_images(&mut self, now: Now, counted_ms: u64, ask: &Ask, came: u64) {
        let asked = ask.weight.images;
        if asked == came {
            return;
        }
        if let Some(quota) = self.quota(ask) {
            quota.amend_images(now, counted_ms, asked, came);
        }
        // Entries that agree in all this are as good as each other.
        let from = self.log.partition_point(|entry| entry.count_ms < counted_ms);
        let entry = self.log[from..].iter_mut().find(|entry| {
            (entry.count_ms, entry.at_ms, entry.status) == (counted_ms, ask.at_ms, 200)
                && entry.prompt_sha256 == ask.prompt_sha256
                && entry.weight == ask.weight
        });
        if let Some(entry) = entry {
            entry.weight.images = came;
        }
    }

    /// Decides and counts what other clients asked for until `now`.
    fn let_others_in(&mut self, now: Now) {
        let mut streams = std::mem::take(&mut self.streams);
        for stream in &mut streams {
            let one = Weight { requests: 1, input_tokens: stream.input_tokens(), images: 0 };
            while let Some(at_ms) = stream.pop(now.at_ms, self.seed, self.minute_ms) {
                let then = now.back_to(at_ms);
                let quota = self.quota_of(stream.project.clone(), &stream.model);
                let fits = quota.violations(then, one).is_empty();
                if fits {
                    quota.count(then, one);
                }
                stream.stats.requests += 1;
                stream.stats.accepted += u64::from(fits);
                stream.stats.throttled += u64::from(!fits);
            }
        }
        self.streams = streams;
    }

    fn violations(&mut self, now: Now, ask: &Ask) -> Vec<Violation> {
        self.quota(ask).map_or_else(Vec::new, |quota| quota.violations(now, ask.weight))
    }

    /// The books of the call's project and model, new ones at first use.
    fn quota(&mut self, ask: &Ask) -> Option<&mut ModelQuota> {
        let project = ask.caller.as_ref()?.project.clone();
        let model = ask.model.as_ref()?;
        Some(self.quota_of(project, model))
    }

    fn quota_of(&mut self, project: Arc<str>, model: &Model) -> &mut ModelQuota {
        let index = index_of(&format!("{project}/{}", model.name));
        let quota = self.quotas.entry((project, model.name.as_str().into()));
        quota.or_insert_with(|| {
            let phase_ms = draw_up_to(self.seed, Purpose::Phase, index, self.minute_ms - 1);
            ModelQuota::new(model, self.kind, self.minute_ms, self.limits.zone, phase_ms)
        })
    }

    fn tally(&mut self, ask: &Ask, planned: Planned, status: u16, output_tokens: u64) {
        let mut counts = Counts { requests: 1, ..Counts::default() };
        match (status, planned) {
            (200, Planned::Answer { images, .. }) => {
                counts.accepted = 1;
                counts.input_tokens = ask.weight.input_tokens;
                counts.output_tokens = output_tokens;
                counts.images = images;
            }
            (429, _) => counts.throttled = 1,
            (400..500, _) => counts.client_errors = 1,
            (500.., _) => counts.server_errors = 1,
            _ => {}
        }
        self.totals.add(counts);
        if let Some(caller) = &ask.caller {
            let project = self.projects.entry(caller.project.to_string()).or_default();
            project.counts.add(counts);
            *project.keys.entry(caller.key.to_string()).or_default() += 1;
            if let Some(model) = &ask.model {
                project.models.entry(model.name.clone()).or_default().add(counts);
            }
        }
    }

    fn write(&mut self, now: Now, ask: &Ask, status: u16, weight: Weight) {
        if self.log.len() >= self.max_log {
            self.log_truncated = true;
            return;
        }
        self.log.push(Entry {
            n: u64::try_from(self.log.len()).unwrap_or(u64::MAX) + 1,
            project: ask.caller.as_ref().map(|caller| caller.project.clone()),
            key: ask.caller.as_ref().map(|caller| caller.key.clone()),
            model: ask.model.as_ref().map(|model| model.name.as_str().into()),
            call: ask.call,
            at_ms: ask.at_ms,
            count_ms: now.at_ms,
            day: date_of(self.limits.zone, now.wall),
            status,
            input_tokens: ask.weight.input_tokens,
            prompt_sha256: ask.prompt_sha256,
            weight,
            fault: ask.fault.map(FaultKind::name),
        });
    }

    /// Up to `limit` entries of the log after entry `after`.
    pub(super) fn log_after(&self, after: u64, limit: usize) -> Vec<Entry> {
        let start = usize::try_from(after).unwrap_or(usize::MAX).min(self.log.len());
        self.log[start..].iter().take(limit).cloned().collect()
    }

    /// Everything until `now` but `max_in_flight`, which is not known here.
    pub(super) fn stats_at(&mut self, now: Now) -> Stats {
        self.let_others_in(now);
        self.stats()
    }

    fn stats(&self) -> Stats {
        let mut worst_window = BTreeMap::new();
        for ((project, model), worst) in worst_windows(&self.log, self.minute_ms) {
            let limited = self.limits.projects.iter().find(|known| *known.name == *project);
            let limited = limited
                .and_then(|known| known.models.iter().find(|known| *known.name == *model).cloned());
            let limited = limited.unwrap_or_default();
            let worst = WorstWindow {
                limit: limited.rpm,
                input_tokens_limit: limited.tpm,
                images_limit: limited.ipm,
                day_requests_limit: limited.rpd,
                day_input_tokens_limit: limited.tpd,
                ..worst
            };
            worst_window.insert(format!("{project}/{model}"), worst);
        }
        Stats {
            counts: self.totals,
            max_in_flight: 0,
            log_truncated: self.log_truncated,
            projects: self.projects.clone(),
            worst_window,
            external: external::stats(&self.streams),
        }
    }
}

fn open_key(known: &mut BTreeMap<String, Arc<str>>, key: &str) -> Arc<str> {
    if let Some(name) = known.get(key) {
        return name.clone();
    }
    if known.len() >= MAX_NAMES {
        return "key-other".into();
    }
    let name: Arc<str> = format!("key-{}", known.len() + 1).into();
    known.insert(key.to_owned(), name.clone());
    name
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.throttled += other.throttled;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.images += other.images;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::emulator::quota::QuotaKind;

    fn now(at_ms: u64) -> Now {
        let start: DateTime<Utc> = "2026-11-22T20:00:00Z".parse().unwrap();
        Now { at_ms, wall: start + std::time::Duration::from_millis(at_ms) }
    }

    fn engine(model: &str) -> Engine {
        let text = format!(
            "[[project]]\nname = \"p\"\nkeys = [\"a\", \"b\"]\nrevoked_keys = [\"old\"]\n\
             [[project.model]]\nname = \"m\"\naliases = [\"m-1\"]\n{model}"
        );
        Engine::new(Limits::parse(&text).unwrap(), WindowKind::Sliding, 60_000, 7)
    }

    fn ask(engine: &mut Engine, key: &str, model: &str, input_tokens: u64) -> Ask {
        let caller = engine.identify(key).unwrap();
        let model = engine.find_model(&caller, model);
        let weight = Weight { requests: 1, input_tokens, images: 0 };
        Ask { call: "generateContent", caller: Some(caller), model, weight, ..Ask::default() }
    }

    const ANSWER: Planned = Planned::Answer { output_tokens: 3, images: 0 };

    #[test]
    fn keys_and_aliases_of_a_project_share_its_limits() {
        let mut engine = engine("rpm = 2");
        for (key, model) in [("a", "m"), ("b", "m-1")] {
            let ask = ask(&mut engine, key, model, 1);
            assert_eq!(engine.settle(now(0), &ask, ANSWER), Ok(()));
        }
        let third = ask(&mut engine, "b", "m", 1);
        let violations = engine.settle(now(10), &third, ANSWER).unwrap_err();
        let kind = QuotaKind::RequestsPerMinute;
        assert_eq!(violations, [Violation { kind, limit: 2, wait_ms: 59_990 }]);
        let stats = engine.stats();
        let project = &stats.projects["p"];
        assert_eq!((project.counts.accepted, project.counts.throttled), (2, 1));
        assert_eq!(project.keys["key-2"], 2);
        assert_eq!(project.models["m"].requests, 3);
        assert_eq!(stats.worst_window["p/m"].requests, 2);
        assert_eq!(stats.worst_window["p/m"].limit, Some(2));
    }

    #[test]
    fn several_violations_are_reported_together_and_a_refusal_counts_nothing() {
        let mut engine = engine("rpm = 1\ntpm = 10\nrpd = 1");
        let ask = ask(&mut engine, "a", "m", 10);
        assert_eq!(engine.settle(now(0), &ask, ANSWER), Ok(()));
        let kinds: Vec<_> = engine.settle(now(1), &ask, ANSWER).unwrap_err();
        let kinds: Vec<_> = kinds.into_iter().map(|violation| violation.kind).collect();
        assert_eq!(
            kinds,
            [
                QuotaKind::InputTokensPerMinute,
                QuotaKind::RequestsPerMinute,
                QuotaKind::RequestsPerDay,
            ]
        );
        let later = engine.settle(now(60_000), &ask, ANSWER).unwrap_err();
        assert_eq!(later.len(), 1, "{later:?}");
        // Twelve hours after the start, at noon Pacific, it is midnight there.
        assert_eq!(later[0].wait_ms, 12 * 3_600_000 - 60_000);
        assert_eq!(engine.settle(now(12 * 3_600_000), &ask, ANSWER), Ok(()));
    }

    #[test]
    fn failures_count_as_a_request_and_429s_only_if_told_so() {
        for (count_rejected, free) in [(false, 1), (true, 0)] {
            let mut engine = engine("rpm = 3");
            engine.limits.count_rejected = count_rejected;
            let ask = ask(&mut engine, "a", "m", 5);
            for planned in [Planned::Failure(400), Planned::Failure(503), Planned::Uncounted(404)] {
                assert_eq!(engine.settle(now(0), &ask, planned), Ok(()));
            }
            assert_eq!(engine.settle(now(0), &ask, Planned::Failure(429)), Ok(()));
            let answers = (0..2).filter(|_| engine.settle(now(1), &ask, ANSWER).is_ok()).count();
            assert_eq!(answers, free);
            let counts = engine.stats().counts;
            assert_eq!((counts.client_errors, counts.server_errors), (2, 1));
        }
    }

    #[test]
    fn keys_decide_who_calls() {
        let mut engine = engine("");
        assert_eq!(engine.identify("old").unwrap_err(), Refusal::leaked_key());
        assert_eq!(engine.identify("c").unwrap_err(), Refusal::bad_key());
        let caller = engine.identify("a").unwrap();
        assert!(engine.find_model(&caller, "n").is_none());
    }

    #[test]
    fn open_limits_accept_any_key_and_model() {
        let mut engine = Engine::new(Limits::open(), WindowKind::Fixed, 60_000, 0);
        for number in 0..50 {
            let key = format!("key of {}", number % 2);
            let ask = ask(&mut engine, &key, "anything", 1);
            assert_eq!(engine.settle(now(number), &ask, ANSWER), Ok(()));
        }
        let stats = engine.stats();
        assert_eq!(stats.projects["emulator"].keys.len(), 2);
        assert_eq!(stats.projects["emulator"].models["anything"].accepted, 50);
        assert_eq!(stats.worst_window["emulator/anything"].limit, None);
    }

    #[test]
    fn a_full_log_says_so_and_the_limits_go_on() {
        let mut engine = engine("rpm = 2");
        engine.max_log = 1;
        let ask = ask(&mut engine, "a", "m", 1);
        let answers = (0..3).filter(|_| engine.settle(now(0), &ask, ANSWER).is_ok()).count();
        assert_eq!(answers, 2);
        assert!(engine.stats().log_truncated);
        assert_eq!(engine.log_after(0, 10).len(), 1);
        assert_eq!(engine.log_after(1, 10), []);
    }

    #[test]
    fn faults_come_by_their_probability_and_the_seed_decides_when() {
        let draw = |seed| {
            let mut engine = engine("fault = { status_503 = 0.25, cut = 0.25 }");
            engine.seed = seed;
            let ask = ask(&mut engine, "a", "m", 1);
            (0..1_000).map(|n| engine.take_fault(n, ask.model.as_deref())).collect::<Vec<_>>()
        };
        let faults = draw(1);
        let count = |kind| faults.iter().filter(|fault| **fault == kind).count();
        assert!((200..300).contains(&count(Some(FaultKind::Unavailable))));
        assert!((200..300).contains(&count(Some(FaultKind::Cut))));
        assert_eq!(draw(1), faults);
        assert_ne!(draw(2), faults);
    }
}
