//! The options of a batch on the command line.

use chrono::{DateTime, Utc};

use super::{EX_USAGE, Failure};
use crate::api::options_of;
use crate::clock;
use crate::config::{Config, ModelRule};
use crate::engine::routes::{self, Wish};
use crate::formats::{self, BatchOptions, BatchPace, InDoubt, OnBadLine, Priority};
use crate::gate::limits::Allowance;

/// What a batch is asked to be, but for its name.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct BatchArgs {
    /// Whose quota to use
    #[arg(long)]
    project: Option<String>,
    /// The model
    #[arg(long)]
    model: Option<String>,
    /// The configuration's pool of routes to take, instead of a model
    #[arg(long)]
    pool: Option<String>,
    /// A model to try when the first choice is far off; may be given several times
    #[arg(long, value_name = "MODEL")]
    fallback: Vec<String>,
    /// How far off that is, such as 30m
    #[arg(long, value_name = "LENGTH")]
    patience: Option<humantime::Duration>,
    /// asap, or spread over the time until the deadline
    #[arg(long)]
    pace: Option<BatchPace>,
    /// high, normal or low
    #[arg(long)]
    priority: Option<Priority>,
    /// Who fairness is between
    #[arg(long)]
    tenant: Option<String>,
    /// When it should be done (RFC 3339)
    #[arg(long, value_name = "TIME")]
    deadline: Option<DateTime<Utc>>,
    /// What it may cost at most, in US dollars with at most six decimals
    #[arg(long, value_name = "DOLLARS")]
    max_cost: Option<String>,
    /// Send nothing before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    not_before: Option<DateTime<Utc>>,
    /// What to do when it is unknown whether a request was answered: retry, hold or fail
    #[arg(long)]
    in_doubt: Option<InDoubt>,
    /// What to do with a bad line: reject the file, or skip the line
    #[arg(long)]
    on_bad_line: Option<OnBadLine>,
    /// The prompt of a row or line, such as "Classify: {{text}}"
    #[arg(long)]
    template: Option<String>,
}

impl BatchArgs {
    /// The options by their names, as the API takes them.
    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        let time = |time: &Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
        let mut pairs: Vec<_> = [
            ("project", self.project.clone()),
            ("model", self.model.clone()),
            ("pool", self.pool.clone()),
            ("patience", self.patience.map(|length| length.to_string())),
            ("pace", self.pace.map(|pace| pace.as_str().to_owned())),
            ("priority", self.priority.map(|priority| priority.as_str().to_owned())),
            ("tenant", self.tenant.clone()),
            ("deadline", time(&self.deadline)),
            ("max_cost", self.max_cost.clone()),
            ("not_before", time(&self.not_before)),
            ("in_doubt", self.in_doubt.map(|what| what.as_str().to_owned())),
            ("on_bad_line", self.on_bad_line.map(|what| what.as_str().to_owned())),
            ("template", self.template.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
        pairs.extend(self.fallback.iter().map(|model| ("fallback".to_owned(), model.clone())));
        pairs
    }

    pub(super) fn has_tenant(&self) -> bool {
        self.tenant.is_some()
    }

    /// What the daemon would refuse is told here, not in a file that nobody looks at.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some(text) = &self.max_cost
            && formats::micro_dollars(text).is_none()
        {
            let why = format!("--max-cost {text}: not US dollars with at most six decimals");
            return Err(Failure::new(EX_USAGE, why));
        }
        options(self.pairs()).map(drop)
    }
}

/// The options that these pairs say.
pub(super) fn options(pairs: Vec<(String, String)>) -> Result<BatchOptions, Failure> {
    options_of(pairs).map_err(|why| Failure::new(EX_USAGE, why))
}

/// What the daemon would refuse for its project, pool, models or cost is told at once.
pub(super) fn check_route(config: &Config, named: BatchOptions) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(EX_USAGE, why));
    let by_default = config.defaults.pool.is_some() && named.project.is_none();
    let known = named.model.is_some() || config.defaults.model.is_some();
    if named.pool.is_none() && !by_default && !known {
        // The file's first line may name one; of the project enough is known.
        let any = BatchOptions { model: Some("any".to_owned()), ..named };
        return Wish::of(&any, config).map(drop).or_else(refuse);
    }
    let wish = match Wish::of(&named, config) {
        Ok(wish) => wish,
        Err(why) => return refuse(why),
    };
    if named.max_cost_micro_usd.is_some() {
        // In place of a default the file's first line may name another model.
        let defaults =
            if named.model.is_some() || named.pool.is_some() { 0 } else { wish.first.len() };
        let models = wish.models().split_off(defaults);
        let models = models.iter().map(|(project, model)| (project.as_str(), model.as_str()));
        if let Some(why) = routes::unpriced(models, config, clock::now().wall) {
            return refuse(why);
        }
    }
    let Some(model) = &named.model else { return Ok(()) };
    let name = &wish.first[0].project;
    let rule = config.project(name).map(|project| project.allowance(model));
    match rule {
        Some(ModelRule::Known { allowance: Allowance::Off { source }, .. }) => {
            refuse(format!("{model} is not offered to project {name} ({source})"))
        }
        Some(ModelRule::Known { .. } | ModelRule::Unknown) | None => Ok(()),
    }
}
