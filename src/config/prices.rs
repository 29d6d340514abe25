//! Dated prices of models, and what a sum of tokens costs by them. Whole picodollars throughout: a
//! price in US dollars for a million tokens with up to six decimals is a whole number of them for
//! one token.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::LazyLock;

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The tier that pays nothing.
const FREE_TIER: &str = "free";

const EMBEDDED: &str = include_str!("../../presets/prices-2026-11.toml");

static SHIPPED: LazyLock<Prices> =
    LazyLock::new(|| Prices::parse(EMBEDDED).expect("a test reads the embedded table"));

/// What is wrong with a table of prices.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// It cannot be read.
    #[error("not a table of prices")]
    Toml(#[source] Box<toml::de::Error>),
    /// A model without a price, or with prices that are not in the order of their dates.
    #[error("the prices of `{id}` must be at least one, each of a later day than the one before")]
    Order {
        /// The model's first id.
        id: String,
    },
    /// An id that stands for two models.
    #[error("`{id}` has two tables of prices; leave one")]
    Twice {
        /// The id.
        id: String,
    },
}

/// A dated table of prices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What reports call it, such as `prices-2026-11`.
    pub name: String,
    /// Where the prices come from.
    pub source: String,
    model: Vec<ModelPrices>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelPrices {
    ids: Vec<String>,
    note: Option<String>,
    price: Vec<Price>,
}

/// What one model costs from a day on. A rate that is absent is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The first quota day on which it holds.
    valid_from: NaiveDate,
    /// Input, and what tools add to it.
    input: Option<Rate>,
    /// Output, and thoughts.
    output: Option<Rate>,
    /// The cached part of the input.
    cached: Option<Rate>,
    /// One image.
    #[serde(skip)]
    image: Option<Rate>,
}

/// Picodollars for one token, written as US dollars for a million of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rate(u64);

/// An amount of money: 10^-12 US dollars. In JSON a number of US dollars with at most nine
/// decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PicoUsd(pub u128);

/// What is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Input tokens, the cached part included.
    pub input_tokens: u64,
    /// The cached part of the input.
    pub cached_tokens: u64,
    /// Output tokens without thoughts.
    pub output_tokens: u64,
    /// Thoughts.
    pub thought_tokens: u64,
    /// Input that tools added.
    pub tool_tokens: u64,
    /// Images made.
    pub images: u64,
}

impl Prices {
    /// The table that comes with the program.
    #[must_use]
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Reads a table from TOML; `presets/prices-2026-11.toml` says what is in one.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let prices: Self =
            toml::from_str(text).map_err(|source| PriceError::Toml(Box::new(source)))?;
        let mut ids = BTreeSet::new();
        for model in &prices.model {
            let in_order = model.price.is_sorted_by(|a, b| a.valid_from < b.valid_from);
            if model.price.is_empty() || !in_order {
                let id = model.ids.first().cloned().unwrap_or_default();
                return Err(PriceError::Order { id });
            }
            if let Some(id) = model.ids.iter().find(|id| !ids.insert(id.as_str())) {
                return Err(PriceError::Twice { id: id.clone() });
            }
        }
        Ok(prices)
    }

    /// What a project of `tier` pays for `model` on a quota day; `None` when the table does not
    /// say. The free tier pays nothing, whatever the model.
    #[must_use]
    pub fn price(&self, tier: &str, model: &str, day: NaiveDate) -> Option<&Price> {
        const FREE: Price = Price {
            valid_from: NaiveDate::MIN,
            input: Some(Rate(0)),
            output: Some(Rate(0)),
            cached: Some(Rate(0)),
            image: Some(Rate(0)),
        };
        if tier == FREE_TIER {
            return Some(&FREE);
        }
        self.model(model)?.price.iter().rev().find(|price| price.valid_from <= day)
    }

    /// What the price of `model` leaves out, in words.
    #[must_use]
    pub fn note(&self, model: &str) -> Option<&str> {
        self.model(model)?.note.as_deref()
    }

    fn model(&self, id: &str) -> Option<&ModelPrices> {
        let id = id.strip_prefix("models/").unwrap_or(id);
        let stands_for = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => id.starts_with(start),
            None => pattern == id,
        };
        self.model.iter().find(|model| model.ids.iter().any(stands_for))
    }
}

/// What `amounts` cost at `price`; `None` when something of it has no known price. Nothing costs
/// nothing, at whatever price.
#[must_use]
pub fn cost(price: Option<&Price>, amounts: &Amounts) -> Option<PicoUsd> {
    let part = |count: u64, rate: fn(&Price) -> Option<Rate>| match count {
        0 => Some(0),
        _ => price.and_then(rate).map(|rate| u128::from(count) * u128::from(rate.0)),
    };
    let Amounts { input_tokens, cached_tokens, output_tokens, thought_tokens, .. } = *amounts;
    let uncached = input_tokens.saturating_sub(cached_tokens);
    let parts = [
        part(uncached.saturating_add(amounts.tool_tokens), |price| price.input)?,
        part(cached_tokens, |price| price.cached)?,
        part(output_tokens.saturating_add(thought_tokens), |price| price.output)?,
        part(amounts.images, |price| price.image)?,
    ];
    Some(PicoUsd(parts.into_iter().fold(0, u128::saturating_add)))
}

impl PicoUsd {
    /// So many billionths of a dollar.
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(u128::from(nanos) * 1_000)
    }

    /// The same in billionths of a dollar, rounded up.
    #[must_use]
    pub fn to_nanos(self) -> u64 {
        u64::try_from(self.0.div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    /// Both amounts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// US dollars with exactly `decimals` decimals, at most 12, rounded half up.
    #[must_use]
    pub fn to_dollars(self, decimals: u32) -> String {
        let kept = 10_u128.pow(decimals.min(12));
        let unit = 10_u128.pow(12) / kept;
        let rounded = self.0.saturating_add(unit / 2) / unit;
        let width = usize::try_from(decimals.min(12)).unwrap_or(12);
        match width {
            0 => rounded.to_string(),
            _ => format!("{}.{:0width$}", rounded / kept, rounded % kept),
        }
    }

    /// US dollars with as many decimals as needed, at most nine: `0`, `0.00031`, `12.5`.
    #[must_use]
    pub fn to_short(self) -> String {
        let dollars = self.to_dollars(9);
        dollars.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl Serialize for PicoUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = self.to_dollars(9).parse().map_err(serde::ser::Error::custom)?;
        serializer.serialize_f64(number)
    }
}

impl<'de> Deserialize<'de> for PicoUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = format!("{:.9}", f64::deserialize(deserializer)?);
        let amount = decimal(&dollars, 12).map(Self);
        amount.ok_or_else(|| serde::de::Error::custom("not an amount of US dollars"))
    }
}

/// Neither signs nor exponents; at most six decimals.
impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        decimal(text, 6).and_then(|rate| u64::try_from(rate).ok()).map(Self).ok_or(NotARate)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no price.
#[derive(Debug, thiserror::Error)]
#[error("not US dollars with at most six decimals, such as \"0.075\"")]
struct NotARate;

/// A decimal number times ten to the power of `decimals`, if that makes it whole.
pub(super) fn decimal(text: &str, decimals: usize) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > decimals {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}
