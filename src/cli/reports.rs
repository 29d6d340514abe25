//! x
use super::{Failure, Global};
#[derive(Debug, clap::Args)]
pub(super) struct UsageArgs {}
#[derive(Debug, clap::Args)]
pub(super) struct LimitsArgs {}
pub(super) async fn usage(_g: &Global, _a: UsageArgs, _e: &crate::config::Env) -> Result<u8, Failure> { Ok(0) }
pub(super) async fn limits(_g: &Global, _a: LimitsArgs, _e: &crate::config::Env) -> Result<u8, Failure> { Ok(0) }
