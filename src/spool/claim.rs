//! Taking a file: the copy, the options beside it, and the removal of what was dropped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::dir::{Dir, is_directory};
use super::name::{self, SIDECAR_SUFFIX, check_id};
use super::scan::{nanoseconds, refusal_of_file, refusal_of_type};
use super::{Candidate, Identity, Refusal, Spool, SpoolError, caps};
use crate::gate::units::UnixMs;

/// The copied file in `working/ID`.
pub(super) const INPUT: &str = "input";
pub(super) const INPUT_PART: &str = "input.part";

/// A file copied into `working/`, durable. The dropped file is still in `incoming/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The batch it becomes.
    pub id: String,
    /// The dropped file: with the hash, what tells a replay from a new file.
    pub source: Identity,
    /// When it was put there, or changed in any other way, by the system's clock: a file that came
    /// later is another drop, even if all of `source` is the same.
    pub changed: UnixMs,
    /// The hash of its content.
    pub sha256: [u8; 32],
    /// The copy.
    pub input: PathBuf,
    /// The options dropped beside it.
    pub sidecar: Sidecar,
}

/// The options file of a dropped file: `FILE.tidegate.toml`, else `NAME.tidegate.toml`. One that
/// belongs neither to the owner of the file nor to root nor to the daemon does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// There is none.
    Absent,
    /// Its text, at most 64 KiB.
    Text(String),
    /// There is one, but it cannot be used: the file should be rejected.
    Bad {
        /// Its name in `incoming/`.
        name: String,
        /// Why.
        reason: Refusal,
    },
}

/// What became of a dropped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is removed, with its options file.
    Removed,
    /// It was gone already.
    Gone,
    /// Another file stands there, or more was written into it since the claim: it stays, and a
    /// later scan finds it as a new one.
    Different,
}

impl Spool {
    /// Copies a ready file to `working/ID/input`, fsynced, and hashes it. What the file is in the
    /// end must be what the scan saw, else [`SpoolError::Changed`]: nothing is left in `working/`
    /// and the file stays in `incoming/`. The caller commits the batch and then calls
    /// [`Spool::release_original`].
    pub fn claim(&self, candidate: &Candidate, id: &str) -> Result<Claimed, SpoolError> {
        self.claim_observed(candidate, id, || ())
    }

    /// `after_copy` runs between the copy and the check of the source.
    pub(super) fn claim_observed(
        &self,
        candidate: &Candidate,
        id: &str,
        after_copy: impl FnOnce(),
    ) -> Result<Claimed, SpoolError> {
        check_id(id)?;
        let mut source = self.open_dropped(candidate)?;
        let stat = fstat(&source).map_err(|error| {
            SpoolError::io("look at", self.incoming.join(&candidate.name), error)
        })?;
        let changed_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
        let sidecar = self.read_sidecar(&candidate.name, candidate.identity.uid)?;
        let work = self.working.subdirectory(id)?;
        if work.stat(INPUT)?.is_some() {
            return Err(SpoolError::Exists { path: work.join(INPUT) });
        }
        let copied = self.copy(candidate, &mut source, &work).and_then(|sha256| {
            after_copy();
            self.check_unchanged(candidate, &source)?;
            work.rename(INPUT_PART, &work, INPUT)?;
            work.sync()?;
            self.working.sync()?;
            Ok(sha256)
        });
        match copied {
            Ok(sha256) => Ok(Claimed {
                id: id.to_owned(),
                source: candidate.identity,
                changed: UnixMs(changed_ns.div_euclid(1_000_000)),
                sha256,
                input: work.join(INPUT),
                sidecar,
            }),
            Err(error) => {
                // The first error tells more than a second one from tidying up.
                drop(work.remove(INPUT_PART));
                drop(self.working.remove_if_empty(id));
                Err(error)
            }
        }
    }

    fn open_dropped(&self, candidate: &Candidate) -> Result<File, SpoolError> {
        name::check(candidate.name.as_ref())
            .map_err(|reason| SpoolError::BadName { name: candidate.name.clone(), reason })?;
        let path = self.incoming.join(&candidate.name);
        let source = match self.incoming.open_file(&candidate.name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(SpoolError::Gone { path }),
            Err(error) => match refusal_of_open(error) {
                Some(reason) => return Err(SpoolError::Refused { path, reason }),
                None => return Err(SpoolError::io("open", path, error)),
            },
        };
        self.check_unchanged(candidate, &source)?;
        Ok(source)
    }

    /// The open file is still the one the scan saw, with the content it had, and under its name.
    fn check_unchanged(&self, candidate: &Candidate, source: &File) -> Result<(), SpoolError> {
        let path = self.incoming.join(&candidate.name);
        let stat = fstat(source).map_err(|error| SpoolError::io("look at", &path, error))?;
        let refusal = refusal_of_type(&stat)
            .or_else(|| refusal_of_file(Identity::of(&stat).size, stat.st_nlink));
        if let Some(reason) = refusal {
            return Err(SpoolError::Refused { path, reason });
        }
        let named = self.incoming.stat(&candidate.name)?.map(|stat| Identity::of(&stat));
        match named {
            None => Err(SpoolError::Gone { path }),
            Some(named) if named == candidate.identity && named == Identity::of(&stat) => Ok(()),
            Some(_) => Err(SpoolError::Changed { path }),
        }
    }

    fn copy(
        &self,
        candidate: &Candidate,
        source: &mut File,
        work: &Dir,
    ) -> Result<[u8; 32], SpoolError> {
        let path = self.incoming.join(&candidate.name);
        let mut copy = work.create_file(INPUT_PART, 0o600)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; caps::BUFFER_BYTES];
        let mut copied = 0;
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(SpoolError::io("read", path, error)),
            };
            copied += u64::try_from(n).unwrap_or(u64::MAX);
            // A writer that goes on must not fill the disk through us.
            if copied > candidate.identity.size {
                return Err(SpoolError::Changed { path });
            }
            hash.update(&buffer[..n]);
            copy.write_all(&buffer[..n])
                .map_err(|error| SpoolError::io("write", work.join(INPUT_PART), error))?;
        }
        if copied != candidate.identity.size {
            return Err(SpoolError::Changed { path });
        }
        copy.sync_all().map_err(|error| SpoolError::io("sync", work.join(INPUT_PART), error))?;
        Ok(hash.finalize().into())
    }

    /// Removes the dropped file and its options file, if it is still the one that was claimed.
    /// To be called once the batch is committed, and again at start for every batch of which it
    /// is not known that this was done.
    pub fn release_original(
        &self,
        id: &str,
        name: &str,
        identity: &Identity,
    ) -> Result<Release, SpoolError> {
        check_id(id)?;
        let is_it = |dir: &Dir, name: &str| -> Result<Option<bool>, SpoolError> {
            Ok(dir.stat(name)?.map(|stat| Identity::of(&stat) == *identity))
        };
        // The user may put a new file under this name at any moment. So the file is first moved
        // to where only the daemon reaches, looked at once more, and only then removed.
        let aside = format!("{id}.original");
        let mut moved = is_it(&self.working, &aside)?;
        let named = is_it(&self.incoming, name)?;
        if moved.is_none() && named == Some(true) {
            // First, so that after a crash between the two no options are left for the next
            // file of this name.
            if let Some(sidecar) = self.find_sidecar(name, identity.uid)? {
                self.incoming.remove(&sidecar)?;
            }
            match self.incoming.rename(name, &self.working, &aside) {
                Ok(()) => moved = is_it(&self.working, &aside)?,
                Err(SpoolError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let release = match (moved, named) {
            (Some(true), _) => {
                self.working.remove(&aside)?;
                Release::Removed
            }
            (Some(false), _) => {
                self.put_back(&aside, name)?;
                Release::Different
            }
            (None, Some(false)) => Release::Different,
            (None, Some(true) | None) => Release::Gone,
        };
        self.incoming.sync()?;
        self.working.sync()?;
        Ok(release)
    }

    fn put_back(&self, aside: &str, name: &str) -> Result<(), SpoolError> {
        for n in 1..=caps::NAME_TRIES_MAX {
            if self.working.rename_new(aside, &self.incoming, &name::numbered(name, n))? {
                return Ok(());
            }
        }
        Err(SpoolError::NoFreeName { name: name.to_owned() })
    }

    fn read_sidecar(&self, file_name: &str, uid: u32) -> Result<Sidecar, SpoolError> {
        let Some(name) = self.find_sidecar(file_name, uid)? else { return Ok(Sidecar::Absent) };
        let path = self.incoming.join(&name);
        let file = match self.incoming.open_file(&name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Sidecar::Absent),
            Err(error) => match refusal_of_open(error) {
                Some(reason) => return Ok(Sidecar::Bad { name, reason }),
                None => return Err(SpoolError::io("open", path, error)),
            },
        };
        let stat = fstat(&file).map_err(|error| SpoolError::io("look at", &path, error))?;
        if let Some(reason) = refusal_of_type(&stat).or_else(|| refusal_of_file(0, stat.st_nlink)) {
            return Ok(Sidecar::Bad { name, reason });
        }
        let max = caps::SIDECAR_MAX_BYTES;
        let mut bytes = Vec::new();
        file.take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| SpoolError::io("read", path, error))?;
        if u64::try_from(bytes.len()).is_ok_and(|read| read > max) {
            let bytes = Identity::of(&stat).size.max(max + 1);
            return Ok(Sidecar::Bad { name, reason: Refusal::TooLarge { bytes, max } });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Sidecar::Text(text)),
            Err(_) => Ok(Sidecar::Bad { name, reason: Refusal::NotText }),
        }
    }

    /// The name of the options file that counts for this file of this owner. In a directory where
    /// everyone writes, another user's options must not steer it.
    fn find_sidecar(&self, file_name: &str, uid: u32) -> Result<Option<String>, SpoolError> {
        let trusted = [uid, 0, rustix::process::geteuid().as_raw()];
        for base in [file_name, name::stem(file_name)] {
            let name = format!("{base}{SIDECAR_SUFFIX}");
            let counts = |stat: Stat| trusted.contains(&stat.st_uid) && !is_directory(&stat);
            if self.incoming.stat(&name)?.is_some_and(counts) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// What a failed open says about the entry, if it is the entry's fault.
fn refusal_of_open(error: Errno) -> Option<Refusal> {
    match error {
        Errno::LOOP => Some(Refusal::SymbolicLink),
        Errno::ACCESS | Errno::PERM => Some(Refusal::Unreadable),
        // What opening a socket, or a device nobody serves, answers.
        Errno::NXIO | Errno::NODEV => Some(Refusal::Special),
        _ => None,
    }
}
