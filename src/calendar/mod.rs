//! stub
use chrono::{DateTime, NaiveDate, Utc};
/// x
#[derive(Clone, Debug)]
pub struct QuotaDay;
/// x
#[derive(Clone, Debug)]
pub struct DaySpan { /// k
 pub key: NaiveDate, /// s
 pub start: DateTime<Utc>, /// e
 pub end: DateTime<Utc> }
impl QuotaDay { /// x
 pub fn span_at(&self, t: DateTime<Utc>) -> DaySpan { let key = t.date_naive(); let start = key.and_hms_opt(0,0,0).expect("x").and_utc(); DaySpan{key,start,end:start+chrono::Duration::days(1)} } }
