//! What a request is taken to weigh before it is sent, and what its answer teaches.

use super::core::Engine;
use super::job::Counted;
use super::state::{Effect, SendOrder};
use crate::caps;
use crate::config::prices::{Amounts, PicoUsd, Prices, cost};
use crate::formats::Kind;
use crate::gate::admit::BucketId;
use crate::gate::estimate::{Kind as Bounds, Size};
use crate::gate::units::{Metric, Now, Weights};
use crate::store::{BatchId, Observation, QueuedItem, TextWeight};
use crate::upstream::Usage;

/// Output tokens that are taken for the price of a request which does not bound them.
const OUTPUT_TOKENS_GUESS: u64 = 2_048;

/// More than any model answers with: what a request allows beyond it is never spent.
const OUTPUT_TOKENS_CEILING: u64 = 1 << 24;

/// What is known of a request before it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// What its estimate of input tokens is made of, if known.
    pub text: Option<TextWeight>,
    /// Its input tokens where that is not known.
    pub input_tokens: u64,
    /// Its input tokens as the provider counted them.
    pub counted: Option<u64>,
    /// The most output tokens that it allows, if it says so.
    pub output_tokens_max: Option<u64>,
    /// How many requests it counts as.
    pub requests: u64,
    /// Images that it asks for.
    pub images: u64,
}

impl Engine {
    /// What an item of a batch takes from each metric when it is sent to a model.
    pub(super) fn weights(
        &mut self,
        bucket: BucketId,
        model: &str,
        item: &QueuedItem,
        now: Now,
    ) -> Weights {
        let job = self.jobs.get(&BatchId::of_item(item.id));
        let counted = match job.and_then(|job| job.counted.get(&item.id)) {
            Some(Counted::Exactly(tokens)) => Some(*tokens),
            Some(_) | None => None,
        };
        let load = Load {
            text: item.text,
            input_tokens: item.input_tokens,
            counted,
            output_tokens_max: item.output_tokens_max,
            requests: item.requests,
            images: item.images,
        };
        self.weigh(bucket, model, &load, now)
    }

    /// What a request takes from each metric when it is sent to a model.
    pub(super) fn weigh(
        &mut self,
        bucket: BucketId,
        model: &str,
        load: &Load,
        now: Now,
    ) -> Weights {
        let (input_tokens, learned) = match (load.counted, load.text.and_then(bounds)) {
            (Some(tokens), _) => (tokens, false),
            (None, Some((bounds, size))) => {
                let ratio = self.ratios.ratio(model, bounds);
                (ratio.estimate(size), ratio.learned)
            }
            (None, None) => (load.input_tokens, false),
        };
        let output_tokens =
            load.output_tokens_max.unwrap_or(OUTPUT_TOKENS_GUESS).min(OUTPUT_TOKENS_CEILING);
        let counts_output = self.projects[&self.lanes[&bucket].project].counts_output;
        let answered = if counts_output { output_tokens } else { 0 };
        let prompt_tokens = input_tokens;
        let input_tokens = input_tokens.saturating_add(answered);
        // What may fit a limit and is estimated above it takes all of it, and goes alone.
        let most = self.gate.smallest(bucket, Metric::InputTokens).unwrap_or(u64::MAX);
        let least = load.text.map_or(u64::MAX, |text| text.text_bytes / 20 * 3);
        let caps = load.counted.is_none() && least <= most;
        let input_tokens = if caps { input_tokens.min(most) } else { input_tokens };
        let lane = &self.lanes[&bucket];
        let project = &self.projects[&lane.project];
        let day = project.day.span_at(now.wall.to_utc()).key;
        let price = Prices::shipped().price(&project.tier, model, day);
        let amounts =
            Amounts { input_tokens: prompt_tokens, output_tokens, images: 0, ..Amounts::default() };
        let spend_nanos = cost(price, &amounts).map_or(0, PicoUsd::to_nanos);
        self.gate.set_estimates_learned(bucket, learned);
        Weights {
            requests: load.requests,
            input_tokens,
            images: load.images,
            spend_nanos,
            sessions: 0,
        }
    }

    /// What an answered request came to, in billionths of a US dollar; `reserved` when the price of
    /// some part of it is not known.
    pub(super) fn spent(
        &self,
        project: i64,
        model: &str,
        usage: &Usage,
        now: Now,
        reserved: u64,
    ) -> u64 {
        let project = &self.projects[&project];
        let day = project.day.span_at(now.wall.to_utc()).key;
        let price = Prices::shipped().price(&project.tier, model, day);
        let amounts = Amounts {
            input_tokens: usage.prompt,
            cached_tokens: usage.cached,
            output_tokens: usage.candidates,
            thought_tokens: usage.thoughts,
            tool_tokens: usage.tool_use_prompt,
            images: 0,
        };
        cost(price, &amounts).map_or(reserved, PicoUsd::to_nanos)
    }

    /// Learns from what the provider counted.
    pub(super) fn observe(&mut self, observation: &Observation) {
        if let Some((bounds, size)) = bounds(observation.text) {
            self.ratios.observe(&observation.model, bounds, size, observation.input_tokens);
        }
    }

    /// Whether an item's tokens have to be counted by the provider before it can go: those of files
    /// and caches, which no byte of it tells, and with strict estimates those of large prompts.
    pub(super) fn has_to_be_counted(&self, bucket: BucketId, item: &QueuedItem) -> bool {
        let Some(limit) = self.gate.smallest(bucket, Metric::InputTokens) else { return false };
        let kind =
            item.text.and_then(|text| u8::try_from(text.kind).ok()).and_then(Kind::from_code);
        let unmeasured = kind.is_some_and(|kind| kind.unmeasured);
        let strict = self.projects[&self.lanes[&bucket].project].strict_estimates;
        unmeasured || strict && item.input_tokens > limit / 5
    }

    /// Orders the counts that the next items of a batch wait for, some ahead of their turn. True
    /// when `item` waits for one.
    pub(super) fn count_ahead(
        &mut self,
        bucket: BucketId,
        batch: BatchId,
        item: &QueuedItem,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if !self.has_to_be_counted(bucket, item) {
            return false;
        }
        let job = &self.jobs[&batch];
        let ahead = job.ready.iter().take(caps::COUNTS_AHEAD).filter(|next| next.id != item.id);
        let ahead: Vec<_> = std::iter::once(item).chain(ahead).cloned().collect();
        for next in ahead {
            if self.jobs[&batch].counted.contains_key(&next.id)
                || !self.has_to_be_counted(bucket, &next)
            {
                continue;
            }
            let Some(order) = self.count_order(bucket, batch, &next, now) else { continue };
            let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
            job.counted.insert(next.id, Counted::Asked);
            effects.push(Effect::Count(order));
        }
        matches!(self.jobs[&batch].counted.get(&item.id), Some(Counted::Asked))
    }

    /// The model that items of a batch are sent to in a bucket.
    pub(super) fn model_of(&self, batch: BatchId, bucket: BucketId) -> String {
        let setup = &self.jobs[&batch].setup;
        let route = setup.routes.iter().find(|route| route.bucket == bucket);
        route.map_or_else(|| setup.model.clone(), |route| route.model.clone())
    }

    fn count_order(
        &self,
        bucket: BucketId,
        batch: BatchId,
        item: &QueuedItem,
        now: Now,
    ) -> Option<SendOrder> {
        let job = &self.jobs[&batch];
        let project = self.lanes[&bucket].project;
        Some(SendOrder {
            id: crate::gate::window::AttemptId(0),
            item: item.clone(),
            project,
            key: self.projects[&project].turns(now).first().copied()?,
            model: self.model_of(batch, bucket),
            work: job.setup.work.clone(),
            form: job.setup.form.clone(),
            packing: job.setup.packing,
            stale_at: None,
        })
    }
}

/// Whether the provider may add to the input of such a text while it answers.
pub(super) fn uses_tools(text: Option<TextWeight>) -> bool {
    let code = text.and_then(|text| u8::try_from(text.kind).ok());
    code.and_then(Kind::from_code).is_some_and(|kind| kind.tools)
}

/// Whether an item names what only one project has: its files, its caches.
pub(super) fn is_of_project(item: &QueuedItem) -> bool {
    let code = item.text.and_then(|text| u8::try_from(text.kind).ok());
    code.and_then(Kind::from_code).is_some_and(|kind| kind.unmeasured)
}

/// What the estimate of a text rests on; none for a kind that this version does not know.
fn bounds(text: TextWeight) -> Option<(Bounds, Size)> {
    let kind = Kind::from_code(u8::try_from(text.kind).ok()?)?;
    let bounds = Bounds {
        code: kind.code(),
        cold_milli: kind.cold_milli(),
        least_milli: kind.least_milli(),
        most_milli: kind.most_milli(),
    };
    let size =
        Size { text_bytes: text.text_bytes, media_tokens: text.media_tokens, overhead_tokens: 0 };
    Some((bounds, size))
}
