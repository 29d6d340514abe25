//! The directory protocol: how a dropped file becomes a batch, and how its results come back.
//!
//! Five directories on one file system under `spool_dir`: users write into `incoming/`; a claimed
//! file is copied to `working/ID/input`; what the daemon answers stands in `done/` or `failed/`,
//! what it could not accept in `rejected/`. Everything here is blocking file work and knows no
//! database: the caller runs it on a blocking thread and commits its own rows between the steps.
//!
//! The way of one file: [`Spool::scan`] finds it, [`Spool::claim`] copies it, the caller commits
//! the batch, [`Spool::release_original`] removes the dropped file, and [`Spool::finish`] or
//! [`Spool::reject`] ends it. What a client sends begins with [`Spool::receive`] instead. Each
//! step may be repeated after a crash at any point.
//!
//! `incoming/` is written by other users, so its entries are hostile until proven: they are only
//! reached through the directory's descriptor, by one checked name, without following links.

mod acl;
mod answers;
mod claim;
mod dir;
mod drop_in;
mod error;
mod finish;
mod name;
mod receive;
mod records;
mod scan;
mod unpack;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

pub use answers::AnswersFile;
pub(crate) use caps::FILE_MAX_BYTES;
pub use claim::{Claimed, Release, Sidecar};
pub use drop_in::drop_in;
pub use error::{Refusal, SpoolError};
pub use finish::{Finish, Finished, Outcome, Rejected};
pub use name::stem;
pub use records::{Content, Head, Record, RecordReader, Role, head};
pub use scan::{Candidate, Identity, Refused, Scan};
pub use unpack::{Unpacked, nameless, unpacked};
pub use watch::Watcher;

use crate::formats::Packing;
use dir::Dir;
use name::check_id;
use scan::Seen;

use crate::formats;

/// The bounds of the spool, each with its reason.
pub(crate) mod caps {
    /// Largest file taken: what the providers' own batch interfaces take (2 GB), rounded up.
    pub(crate) const FILE_MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
    /// Largest options file beside a dropped file: a template of 64 KiB with every byte escaped,
    /// and a hundred times what all other options need.
    pub(crate) const SIDECAR_MAX_BYTES: u64 = 512 * 1024;
    /// Largest window that a packed file may ask for, as a power of two: 128 MiB, which is what
    /// `zstd` itself takes without being told otherwise.
    pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;
    /// Longest dropped name: leaves room in the 255 bytes of a file name for our suffixes.
    pub(crate) const NAME_MAX_BYTES: usize = 200;
    /// Longest batch name: a dropped name with `.N` behind it.
    pub(crate) const BATCH_NAME_MAX_BYTES: usize = NAME_MAX_BYTES + 8;
    /// Longest batch id; a UUID has 36 characters.
    pub(crate) const ID_MAX_BYTES: usize = 64;
    /// Candidates followed per scan: bounds memory, and the oldest go first, so none starves.
    pub(crate) const SCAN_READY_MAX: usize = 1_000;
    /// Refused entries remembered, so that each is reported once.
    pub(crate) const SCAN_REFUSED_MAX: usize = 1_000;
    /// How long a file must stay the same before it counts as completely written.
    pub(crate) const STABLE_MS: u64 = 1_000;
    /// Names tried (`NAME.2`, `NAME.3` …) before giving up.
    pub(crate) const NAME_TRIES_MAX: u32 = 9_999;
    /// Bytes copied or written per system call.
    pub(crate) const BUFFER_BYTES: usize = 128 * 1024;

    // The longest name made is `.NAME.results.jsonl.part`; a file name holds 255 bytes.
    const _: () = assert!(BATCH_NAME_MAX_BYTES + 20 <= 255);
}

/// The five directories, open. Shared between threads by reference; one daemon per spool.
#[derive(Debug)]
pub struct Spool {
    incoming: Dir,
    working: Dir,
    done: Dir,
    failed: Dir,
    rejected: Dir,
    /// What earlier scans saw in `incoming/`, by name.
    seen: Mutex<BTreeMap<OsString, Seen>>,
}

impl Spool {
    /// Opens the spool under `root`, makes the directories that are missing (0700; existing modes
    /// are left as they are) and checks that a file can move through all of them. Cleans nothing.
    pub fn open(root: &Path) -> Result<Self, SpoolError> {
        let dir = |name: &str| Dir::create(&root.join(name));
        let spool = Self {
            incoming: dir("incoming")?,
            working: dir("working")?,
            done: dir("done")?,
            failed: dir("failed")?,
            rejected: dir("rejected")?,
            seen: Mutex::default(),
        };
        // The five names themselves must outlast a power cut before a file goes through them.
        std::fs::File::open(root)
            .and_then(|root| root.sync_all())
            .map_err(|error| SpoolError::io("sync", root, error))?;
        spool.writable()?;
        Ok(spool)
    }

    /// Moves a small file through all five directories: proves that they still exist, take a
    /// write and are on one file system. Cheap enough for a readiness probe.
    pub fn writable(&self) -> Result<(), SpoolError> {
        let dirs = [&self.working, &self.incoming, &self.done, &self.failed, &self.rejected];
        let name = format!(".probe-{}", std::process::id());
        for dir in dirs {
            dir.still_there()?;
        }
        let mut file = self.working.create_file(&name, 0o600)?;
        let written = file.write_all(b"probe");
        let mut at = &self.working;
        let moved =
            written.map_err(|e| SpoolError::io("write", at.join(&name), e)).and_then(|()| {
                for next in &dirs[1..] {
                    at.rename(&name, next, &name)?;
                    at = next;
                }
                Ok(())
            });
        let removed = at.remove(&name);
        moved?;
        removed.map(|_| ())
    }

    /// `NAME`, or the first of `NAME.2`, `NAME.3` … under which nothing stands in `done/`,
    /// `failed/` or `rejected/` and which is not `taken` (by an open batch).
    pub fn free_name(
        &self,
        name: &str,
        taken: impl Fn(&str) -> bool,
    ) -> Result<String, SpoolError> {
        name::check_batch_name(name)?;
        for n in 1..=caps::NAME_TRIES_MAX {
            let tried = if n == 1 { name.to_owned() } else { format!("{name}.{n}") };
            if !taken(&tried) && !self.is_used(&tried)? {
                return Ok(tried);
            }
        }
        Err(SpoolError::NoFreeName { name: name.to_owned() })
    }

    fn is_used(&self, name: &str) -> Result<bool, SpoolError> {
        let dropped: Vec<String> = formats::suffixes().collect();
        let dropped = || [""].into_iter().chain(dropped.iter().map(String::as_str));
        let ended = || finish::SUFFIXES.into_iter();
        let places: [(&Dir, &mut dyn Iterator<Item = &str>); 4] = [
            (&self.done, &mut ended()),
            (&self.failed, &mut ended()),
            (&self.rejected, &mut dropped()),
            (&self.rejected, &mut [finish::ERROR_SUFFIX].into_iter()),
        ];
        for (dir, suffixes) in places {
            for suffix in suffixes {
                if dir.stat(format!("{name}{suffix}"))?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The copied input of batch `id`, whether it exists or not.
    #[must_use]
    pub fn input_path(&self, id: &str) -> PathBuf {
        self.working_path(id).join(claim::INPUT)
    }

    /// The text that the items of batch `id` are slices of: its input, or what was packed in it.
    #[must_use]
    pub fn text_path(&self, id: &str, packing: Packing) -> PathBuf {
        match packing {
            Packing::Plain => self.input_path(id),
            Packing::Gzip | Packing::Zstd => self.working_path(id).join(unpack::TEXT),
        }
    }

    /// The directory of batch `id` while it is open: its input, and what the caller keeps there.
    #[must_use]
    pub fn working_path(&self, id: &str) -> PathBuf {
        self.working.join(id)
    }

    /// Where the results of the batch called `name` stand once it ended with `outcome`.
    #[must_use]
    pub fn results_path(&self, outcome: Outcome, name: &str) -> PathBuf {
        self.ended(outcome).join(format!("{name}{}", finish::RESULTS_SUFFIX))
    }

    /// Where the input of the batch called `name` is kept once it ended with `outcome`, whether it
    /// exists or not.
    #[must_use]
    pub fn kept_input_path(&self, outcome: Outcome, name: &str) -> PathBuf {
        self.ended(outcome).join(format!("{name}{}", finish::INPUT_SUFFIX))
    }

    /// `incoming/`, to be watched.
    #[must_use]
    pub fn incoming_path(&self) -> &Path {
        self.incoming.path()
    }

    /// The ids of the directories in `working/` that `known` does not know, sorted: claims whose
    /// batch was never committed. Their originals are still in `incoming/`.
    pub fn orphans(&self, known: &dyn Fn(&str) -> bool) -> Result<Vec<String>, SpoolError> {
        let mut orphans = Vec::new();
        for name in self.working.names()? {
            let name = name?;
            let Some(id) = name.to_str().filter(|id| check_id(id).is_ok()) else { continue };
            if !known(id) && self.working.stat(id)?.is_some_and(|stat| dir::is_directory(&stat)) {
                orphans.push(id.to_owned());
            }
        }
        orphans.sort();
        Ok(orphans)
    }

    /// The SHA-256 of the copy in `working/ID`; none where there is no whole one.
    pub fn hash_of_input(&self, id: &str) -> Result<Option<[u8; 32]>, SpoolError> {
        let path = self.input_path(id);
        let failed = |source| SpoolError::io("read", &path, source);
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).map_err(failed)?;
        Ok(Some(hash.finalize().into()))
    }

    /// Removes `working/ID` with all that is in it; nothing to remove is no error.
    pub fn remove_working(&self, id: &str) -> Result<(), SpoolError> {
        check_id(id)?;
        let path = self.working_path(id);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => self.working.sync(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(SpoolError::io("remove", path, error)),
        }
    }

    fn ended(&self, outcome: Outcome) -> &Dir {
        match outcome {
            Outcome::Done => &self.done,
            Outcome::Failed => &self.failed,
        }
    }
}

#[cfg(test)]
mod tests;
