//! How a batch leaves `working/`: with results, or refused.

use std::io::{self, Write};
use std::path::PathBuf;

use super::claim::INPUT;
use super::dir::{Dir, file_type};
use super::name::{self, check_batch_name, check_id};
use super::scan::nanoseconds;
use super::{Spool, SpoolError};
use crate::gate::units::UnixMs;

pub(super) const RESULTS_SUFFIX: &str = ".results.jsonl";
pub(super) const ERROR_SUFFIX: &str = ".error.json";
const REPORT_SUFFIX: &str = ".report.json";
pub(super) const INPUT_SUFFIX: &str = ".input";
/// All that a finished batch leaves behind its name.
pub(super) const SUFFIXES: [&str; 3] = [RESULTS_SUFFIX, REPORT_SUFFIX, INPUT_SUFFIX];

/// The directory a finished batch goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `done/`.
    Done,
    /// `failed/`: no item of the batch succeeded.
    Failed,
}

/// A batch to be finished.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// The batch.
    pub id: &'a str,
    /// Where it goes.
    pub outcome: Outcome,
    /// Its name, from [`Spool::free_name`].
    pub name: &'a str,
    /// The bytes of `NAME.report.json`.
    pub report: &'a [u8],
    /// Whether the input is kept as `NAME.input`.
    pub keep_input: bool,
    /// Who submitted it, and may read what becomes of it.
    pub submitter: Option<u32>,
}

/// Where a finished batch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The results.
    pub results: PathBuf,
    /// The report.
    pub report: PathBuf,
    /// The input, if it is there.
    pub input: Option<PathBuf>,
}

/// Where a rejected file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The file, under the name of the batch with the format suffixes it was dropped with.
    pub input: PathBuf,
    /// What was wrong with it.
    pub error: PathBuf,
}

impl Spool {
    /// Writes `NAME.results.jsonl` and `NAME.report.json`, moves the input beside them (or drops
    /// it) and removes `working/ID`. Each file appears whole or not at all, and the input only
    /// moves once the results are durable. Run again after a crash at any point it ends in the
    /// same state; once the input has moved, `results` is not called again, so it may read it.
    pub fn finish(
        &self,
        batch: &Finish<'_>,
        results: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Finished, SpoolError> {
        check_id(batch.id)?;
        check_batch_name(batch.name)?;
        let dir = self.ended(batch.outcome);
        let [results_name, report_name, input_name] =
            SUFFIXES.map(|suffix| format!("{}{suffix}", batch.name));
        let work = self.work_with_input(batch.id)?;
        let written = dir.stat(&results_name)?.is_some() && dir.stat(&report_name)?.is_some();
        if work.is_some() || !written {
            dir.write_file_for(&results_name, batch.submitter, results)?;
            let report = |out: &mut dyn Write| out.write_all(batch.report);
            dir.write_file_for(&report_name, batch.submitter, report)?;
            dir.sync()?;
        }
        if let Some(work) = work.filter(|_| batch.keep_input) {
            if let Some(uid) = batch.submitter {
                work.share_named(INPUT, uid);
            }
            work.rename(INPUT, dir, &input_name)?;
        }
        // Also when an earlier run, cut off, did the rename.
        dir.sync()?;
        self.remove_working(batch.id)?;
        let kept = dir.stat(&input_name)?.is_some();
        Ok(Finished {
            results: dir.join(&results_name),
            report: dir.join(&report_name),
            input: kept.then(|| dir.join(&input_name)),
        })
    }

    /// Writes `rejected/NAME.error.json`, moves the input to `rejected/NAME` with the format
    /// suffixes of `original_name`, and removes `working/ID`. `name` is from
    /// [`Spool::free_name`]. Run again after a crash at any point it ends in the same state.
    pub fn reject(
        &self,
        id: &str,
        name: &str,
        original_name: &str,
        error_json: &[u8],
        submitter: Option<u32>,
    ) -> Result<Rejected, SpoolError> {
        check_id(id)?;
        check_batch_name(name)?;
        let dir = &self.rejected;
        let suffix = original_name.strip_prefix(name::stem(original_name)).unwrap_or_default();
        let input_name = format!("{name}{suffix}");
        let error_name = format!("{name}{ERROR_SUFFIX}");
        let work = self.work_with_input(id)?;
        if work.is_some() || dir.stat(&error_name)?.is_none() {
            dir.write_file_for(&error_name, submitter, |out| out.write_all(error_json))?;
            dir.sync()?;
        }
        if let Some(work) = work {
            if let Some(uid) = submitter {
                work.share_named(INPUT, uid);
            }
            // Not over a file that someone put there: it is a prompt file like this one.
            if !work.rename_new(INPUT, dir, &input_name)? {
                return Err(SpoolError::Exists { path: dir.join(&input_name) });
            }
        }
        // Also when an earlier run, cut off, did the rename.
        dir.sync()?;
        self.remove_working(id)?;
        Ok(Rejected { input: dir.join(&input_name), error: dir.join(&error_name) })
    }

    /// `working/ID` if the input is in it.
    fn work_with_input(&self, id: &str) -> Result<Option<Dir>, SpoolError> {
        if self.working.stat(id)?.is_none() {
            return Ok(None);
        }
        let work = self.working.subdirectory(id)?;
        let has_input = work.stat(INPUT)?.is_some();
        Ok(has_input.then_some(work))
    }

    /// Removes the kept inputs of batches that ended before `ended_before`; says how many.
    pub fn sweep_inputs(&self, ended_before: UnixMs) -> Result<u64, SpoolError> {
        let mut swept = 0;
        for dir in [&self.done, &self.failed] {
            let before = swept;
            for name in dir.names()? {
                let name = name?;
                let Some(name) = name.to_str().filter(|name| name.ends_with(INPUT_SUFFIX)) else {
                    continue;
                };
                let Some(stat) = dir.stat(name)? else { continue };
                // The move into this directory was the last change of the inode.
                let ended_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
                let is_file = file_type(&stat) == rustix::fs::FileType::RegularFile;
                if is_file && ended_ns.div_euclid(1_000_000) < ended_before.0 && dir.remove(name)? {
                    swept += 1;
                }
            }
            if swept > before {
                dir.sync()?;
            }
        }
        Ok(swept)
    }
}
