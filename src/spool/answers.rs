//! The answers of an open batch, as they come: one file, written at its end only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::name::check_id;
use super::{Spool, SpoolError};

/// Results lines in `working/ID`, in the order in which they came.
const ANSWERS: &str = "answers";

/// `working/ID/answers`, open for appending. One process has it, once.
#[derive(Debug)]
pub struct AnswersFile {
    file: File,
    path: PathBuf,
    /// Behind the last line that was synced.
    end: u64,
}

impl Spool {
    /// Opens the answers of batch `id`, or makes them, and cuts what stands behind `end`: a line
    /// that nobody knows was torn by a crash.
    pub fn answers(&self, id: &str, end: u64) -> Result<AnswersFile, SpoolError> {
        check_id(id)?;
        let work = self.working.subdirectory(id)?;
        let path = work.join(ANSWERS);
        let (file, is_new) = work.open_own(ANSWERS)?;
        let length = file.metadata().map_err(|error| SpoolError::io("look at", &path, error))?;
        if length.len() < end {
            tracing::error!(path = %path.display(), length = length.len(), end,
                "answers are missing from {}: the file was cut", path.display());
        }
        file.set_len(end).map_err(|error| SpoolError::io("cut", &path, error))?;
        if is_new {
            work.sync()?;
        }
        Ok(AnswersFile { file, path, end })
    }

    /// The answers of batch `id`, to be read by the places that the database knows.
    pub fn read_answers(&self, id: &str) -> Result<File, SpoolError> {
        check_id(id)?;
        let path = self.working_path(id).join(ANSWERS);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        opened.map(File::from).map_err(|error| SpoolError::io("open", path, error))
    }
}

impl AnswersFile {
    /// Appends `lines` and returns the offset of each. They are durable when this returns; after an
    /// error none counts, and the next call writes over them.
    pub fn append<'a>(
        &mut self,
        lines: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<u64>, SpoolError> {
        let (mut end, mut places) = (self.end, Vec::new());
        for line in lines {
            self.file.write_all_at(line, end).map_err(|error| self.failed("write", error))?;
            places.push(end);
            end = end.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        }
        self.file.sync_data().map_err(|error| self.failed("sync", error))?;
        self.end = end;
        Ok(places)
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> SpoolError {
        SpoolError::io(doing, &self.path, error)
    }
}
