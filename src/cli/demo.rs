//! x
use super::{Failure, Global};
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) async fn run(_g: &Global, _a: Args) -> Result<u8, Failure> { Ok(0) }
