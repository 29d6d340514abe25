//! x
use super::{Failure, Global};
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) async fn run(_g: &Global, _a: Args, _e: &crate::config::Env) -> Result<u8, Failure> { Ok(0) }
