//! What users have paused.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::seconds;
use crate::gate::units::UnixMs;
use crate::store::Pause;

/// All that is paused: `GET /api/v1/pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausesReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// What is paused, by name.
    pub paused: Vec<PauseOut>,
}

/// One word of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseOut {
    /// The project; `*` for all.
    pub project: String,
    /// The quota group that its models count in; `*` for all of the project.
    pub quota_group: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl PausesReport {
    /// What is paused at `now`.
    #[must_use]
    pub fn new(pauses: Vec<Pause>, now: UnixMs) -> Self {
        let out = |pause: Pause| PauseOut {
            project: pause.project,
            quota_group: pause.group,
            since: seconds(pause.at),
        };
        Self { generated_at: seconds(now), paused: pauses.into_iter().map(out).collect() }
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        if self.paused.is_empty() {
            return "Nothing is paused.\n".to_owned();
        }
        let line = |pause: &PauseOut| {
            let what = match (pause.project.as_str(), pause.quota_group.as_str()) {
                ("*", _) => "everything".to_owned(),
                (project, "*") => format!("{project}, all models"),
                (project, group) => format!("{project} {group}"),
            };
            format!("Paused since {}: {what}\n", pause.since.format("%Y-%m-%d %H:%M:%S UTC"))
        };
        self.paused.iter().map(line).collect()
    }
}
