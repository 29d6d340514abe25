//! All limits of one model in one project, checked and counted together.

use chrono_tz::Tz;
use serde::Serialize;

use super::clock::Now;
use super::day::DayQuota;
use super::limits::Model;
use super::window::{MinuteQuota, WindowKind};

/// What one request takes from the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Weight {
    pub(super) requests: u64,
    pub(super) input_tokens: u64,
    pub(super) images: u64,
}

/// What a limit counts, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaKind {
    InputTokensPerMinute,
    RequestsPerMinute,
    ImagesPerMinute,
    InputTokensPerDay,
    RequestsPerDay,
}

/// Which calls a quota is named after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Method {
    /// `generateContent`.
    #[default]
    Generate,
    /// `embedContent` and `batchEmbedContents`.
    Embed,
}

/// A limit that a request does not fit into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) kind: QuotaKind,
    pub(super) limit: u64,
    /// Milliseconds until this limit would have room.
    pub(super) wait_ms: u64,
}

/// The books of one model in one project.
#[derive(Debug)]
pub(super) struct ModelQuota {
    quotas: Vec<(QuotaKind, Book)>,
}

#[derive(Debug)]
enum Book {
    Minute(MinuteQuota),
    Day(DayQuota),
}

impl QuotaKind {
    /// `quotaMetric`. The two of images are not known from any capture; they follow the pattern.
    pub(super) fn metric(self, paid: bool, method: Method) -> &'static str {
        match method {
            Method::Generate => self.generate_metric(paid),
            Method::Embed => self.embed_metric(paid),
        }
    }

    /// Only that of the free tier's requests is known; the others follow the pattern.
    fn embed_metric(self, paid: bool) -> &'static str {
        match (self, paid) {
            (Self::InputTokensPerMinute | Self::InputTokensPerDay, false) => {
                "generativelanguage.googleapis.com/embed_content_free_tier_input_token_count"
            }
            (Self::InputTokensPerMinute | Self::InputTokensPerDay, true) => {
                "generativelanguage.googleapis.com/embed_content_paid_tier_input_token_count"
            }
            (Self::RequestsPerMinute | Self::RequestsPerDay | Self::ImagesPerMinute, false) => {
                "generativelanguage.googleapis.com/embed_content_free_tier_requests"
            }
            (Self::RequestsPerMinute | Self::RequestsPerDay | Self::ImagesPerMinute, true) => {
                "generativelanguage.googleapis.com/embed_content_paid_tier_requests"
            }
        }
    }

    fn generate_metric(self, paid: bool) -> &'static str {
        match (self, paid) {
            (Self::InputTokensPerMinute | Self::InputTokensPerDay, false) => {
                "generativelanguage.googleapis.com/generate_content_free_tier_input_token_count"
            }
            (Self::InputTokensPerMinute | Self::InputTokensPerDay, true) => {
                "generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count"
            }
            (Self::RequestsPerMinute | Self::RequestsPerDay, false) => {
                "generativelanguage.googleapis.com/generate_content_free_tier_requests"
            }
            (Self::RequestsPerMinute, true) => {
                "generativelanguage.googleapis.com/generate_requests_per_model_per_minute"
            }
            (Self::RequestsPerDay, true) => {
                "generativelanguage.googleapis.com/generate_requests_per_model_per_day"
            }
            (Self::ImagesPerMinute, false) => {
                "generativelanguage.googleapis.com/generate_content_free_tier_images"
            }
            (Self::ImagesPerMinute, true) => {
                "generativelanguage.googleapis.com/generate_images_per_model_per_minute"
            }
        }
    }

    /// `quotaId`. Those of images and of the paid tokens of a day follow the pattern.
    pub(super) fn id(self, paid: bool, method: Method) -> &'static str {
        match method {
            Method::Generate => self.generate_id(paid),
            Method::Embed => self.embed_id(paid),
        }
    }

    /// Only those of the free tier's requests are known. No embedding counts as an image.
    fn embed_id(self, paid: bool) -> &'static str {
        match (self, paid) {
            (Self::InputTokensPerMinute, false) => {
                "EmbedContentInputTokensPerModelPerMinute-FreeTier"
            }
            (Self::InputTokensPerMinute, true) => {
                "EmbedContentPaidTierInputTokensPerModelPerMinute"
            }
            (Self::InputTokensPerDay, false) => "EmbedContentInputTokensPerModelPerDay-FreeTier",
            (Self::InputTokensPerDay, true) => "EmbedContentPaidTierInputTokensPerModelPerDay",
            (Self::RequestsPerMinute | Self::ImagesPerMinute, false) => {
                "EmbedContentRequestsPerMinutePerProjectPerModel-FreeTier"
            }
            (Self::RequestsPerMinute | Self::ImagesPerMinute, true) => {
                "EmbedContentRequestsPerMinutePerProjectPerModel"
            }
            (Self::RequestsPerDay, false) => {
                "EmbedContentRequestsPerDayPerProjectPerModel-FreeTier"
            }
            (Self::RequestsPerDay, true) => "EmbedContentRequestsPerDayPerProjectPerModel",
        }
    }

    fn generate_id(self, paid: bool) -> &'static str {
        match (self, paid) {
            (Self::InputTokensPerMinute, false) => {
                "GenerateContentInputTokensPerModelPerMinute-FreeTier"
            }
            (Self::InputTokensPerMinute, true) => {
                "GenerateContentPaidTierInputTokensPerModelPerMinute"
            }
            (Self::RequestsPerMinute, false) => {
                "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
            }
            (Self::RequestsPerMinute, true) => "GenerateRequestsPerMinutePerProjectPerModel",
            (Self::ImagesPerMinute, false) => "GenerateImagesPerMinutePerProjectPerModel-FreeTier",
            (Self::ImagesPerMinute, true) => "GenerateImagesPerMinutePerProjectPerModel",
            (Self::InputTokensPerDay, false) => "GenerateContentInputTokensPerModelPerDay-FreeTier",
            (Self::InputTokensPerDay, true) => "GenerateContentPaidTierInputTokensPerModelPerDay",
            (Self::RequestsPerDay, false) => "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            (Self::RequestsPerDay, true) => "GenerateRequestsPerDayPerProjectPerModel",
        }
    }

    /// Whether it counts over a day.
    pub(super) fn is_daily(self) -> bool {
        match self {
            Self::InputTokensPerDay | Self::RequestsPerDay => true,
            Self::InputTokensPerMinute | Self::RequestsPerMinute | Self::ImagesPerMinute => false,
        }
    }

    fn of(self, weight: Weight) -> u64 {
        match self {
            Self::InputTokensPerMinute | Self::InputTokensPerDay => weight.input_tokens,
            Self::RequestsPerMinute | Self::RequestsPerDay => weight.requests,
            Self::ImagesPerMinute => weight.images,
        }
    }
}

impl ModelQuota {
    /// Empty books. `phase_ms` shifts the edges of its fixed windows.
    pub(super) fn new(
        model: &Model,
        kind: WindowKind,
        minute_ms: u64,
        zone: Tz,
        phase_ms: u64,
    ) -> Self {
        let minute = |limit| Book::Minute(MinuteQuota::new(kind, limit, minute_ms, phase_ms));
        let day = |limit| Book::Day(DayQuota::new(limit, zone));
        let quotas = [
            (QuotaKind::InputTokensPerMinute, model.tpm.map(minute)),
            (QuotaKind::RequestsPerMinute, model.rpm.map(minute)),
            (QuotaKind::ImagesPerMinute, model.ipm.map(minute)),
            (QuotaKind::InputTokensPerDay, model.tpd.map(day)),
            (QuotaKind::RequestsPerDay, model.rpd.map(day)),
        ];
        let quotas =
            quotas.into_iter().filter_map(|(kind, book)| book.map(|book| (kind, book))).collect();
        Self { quotas }
    }

    /// Every limit that `weight` does not fit into at `now`.
    pub(super) fn violations(&self, now: Now, weight: Weight) -> Vec<Violation> {
        let violation = |(kind, book): &(QuotaKind, Book)| {
            let (limit, wait_ms) = match book {
                Book::Minute(quota) => (quota.limit(), quota.wait_ms(now.at_ms, kind.of(weight))),
                Book::Day(quota) => (quota.limit(), quota.wait_ms(now.wall, kind.of(weight))),
            };
            wait_ms.map(|wait_ms| Violation { kind: *kind, limit, wait_ms })
        };
        self.quotas.iter().filter_map(violation).collect()
    }

    /// Counts `weight` against every limit.
    pub(super) fn count(&mut self, now: Now, weight: Weight) {
        for (kind, book) in &mut self.quotas {
            match book {
                Book::Minute(quota) => quota.count(now.at_ms, kind.of(weight)),
                Book::Day(quota) => quota.count(now.wall, kind.of(weight)),
            }
        }
    }

    /// Corrects at `now` the images of a request that was counted at `counted_ms`.
    pub(super) fn amend_images(&mut self, now: Now, counted_ms: u64, asked: u64, came: u64) {
        for (kind, book) in &mut self.quotas {
            if let (QuotaKind::ImagesPerMinute, Book::Minute(quota)) = (kind, book) {
                quota.amend(now.at_ms, counted_ms, asked, came);
            }
        }
    }
}
