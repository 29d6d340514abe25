//! One look at `incoming/`: which files are complete, which are not, and what is refused.

use std::collections::{BTreeMap, BinaryHeap};
use std::ffi::{OsStr, OsString};
use std::sync::PoisonError;

use rustix::fs::{FileType, Stat};

use super::dir::file_type;
use super::{Refusal, Spool, SpoolError, caps, name};
use crate::gate::units::BootMs;

/// What makes a dropped file this very file, and no later one under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The device it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// When its content last changed: nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its bytes.
    pub size: u64,
    /// Its owner: who dropped it.
    pub uid: u32,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            uid: stat.st_uid,
        }
    }
}

/// A file that was the same for long enough to be complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in `incoming/`.
    pub name: String,
    /// What it was when it was found ready.
    pub identity: Identity,
}

/// An entry that is not taken. It stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name, with all that is not printable text escaped.
    pub name: String,
    /// Why, and what to do.
    pub reason: Refusal,
}

/// What one scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Complete files, the oldest first.
    pub ready: Vec<Candidate>,
    /// Files that may still be written: scan again soon.
    pub unsettled: usize,
    /// Entries refused for the first time. Each is reported once, and again when it changes.
    pub refused: Vec<Refused>,
    /// Entries past the bounds of one scan; later scans reach them.
    pub left_out: usize,
}

/// What a scan remembers of an entry for the next one.
#[derive(Debug)]
pub(super) struct Seen {
    identity: Identity,
    since: BootMs,
    refusal: Option<Refusal>,
}

impl Spool {
    /// Looks through `incoming/` once. A file is ready when an earlier scan, at least a second of
    /// `now` before, saw it the same; a second is also how soon to scan again while some are
    /// unsettled. Dotfiles, `*.tmp`, `*.part`, `*~` and options files are passed over.
    pub fn scan(&self, now: BootMs) -> Result<Scan, SpoolError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut look = Look {
            now,
            before: &seen,
            seen: BTreeMap::new(),
            files: BinaryHeap::new(),
            refused: 0,
            scan: Scan::default(),
        };
        for entry in self.incoming.names()? {
            let entry = entry?;
            if name::is_ignored(&entry) {
                continue;
            }
            // Taken away since the listing.
            let Some(stat) = self.incoming.stat(&entry)? else { continue };
            match (refusal_of_type(&stat), name::check(&entry)) {
                (None, Ok(name)) => look.keep_oldest(name.to_owned(), &stat),
                (Some(refusal), _) | (None, Err(refusal)) => {
                    look.refuse(entry, Identity::of(&stat), refusal);
                }
            }
        }
        for Waiting { name, identity, links, .. } in look.take_files() {
            let since = look.still_since(&name, identity);
            if since.until(now) < caps::STABLE_MS {
                look.scan.unsettled += 1;
                look.remember(name.into(), identity, since, None);
                continue;
            }
            let unreadable = || (!self.incoming.may_read(&name)).then_some(Refusal::Unreadable);
            if let Some(refusal) = refusal_of_file(identity.size, links).or_else(unreadable) {
                look.refuse(name.into(), identity, refusal);
                continue;
            }
            look.remember(name.clone().into(), identity, since, None);
            look.scan.ready.push(Candidate { name, identity });
        }
        let Look { scan, seen: fresh, .. } = look;
        *seen = fresh;
        Ok(scan)
    }
}

/// A scan under way.
struct Look<'a> {
    now: BootMs,
    /// What the scan before remembered.
    before: &'a BTreeMap<OsString, Seen>,
    /// What the next one shall.
    seen: BTreeMap<OsString, Seen>,
    /// The oldest regular files met so far; the newest of them on top.
    files: BinaryHeap<Waiting>,
    /// Refused entries met so far, reported before or not.
    refused: usize,
    scan: Scan,
}

/// A regular file under a good name. Ordered by age, then by name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    mtime_ns: i64,
    name: String,
    links: u64,
    identity: Identity,
}

impl Look<'_> {
    fn keep_oldest(&mut self, name: String, stat: &Stat) {
        let identity = Identity::of(stat);
        let links = stat.st_nlink;
        self.files.push(Waiting { mtime_ns: identity.mtime_ns, name, links, identity });
        if self.files.len() > caps::SCAN_READY_MAX {
            self.files.pop();
            self.scan.left_out += 1;
        }
    }

    /// The files met, the oldest first.
    fn take_files(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.files).into_sorted_vec()
    }

    fn still_since(&self, name: &str, identity: Identity) -> BootMs {
        let before = self.before.get(OsStr::new(name));
        before.filter(|seen| seen.identity == identity).map_or(self.now, |seen| seen.since)
    }

    fn refuse(&mut self, name: OsString, identity: Identity, refusal: Refusal) {
        self.refused += 1;
        if self.refused > caps::SCAN_REFUSED_MAX {
            self.scan.left_out += 1;
            return;
        }
        let before = self.before.get(&name).filter(|seen| {
            // What happens inside a directory changes its times, not that it is one.
            let same_inode = (seen.identity.dev, seen.identity.ino) == (identity.dev, identity.ino);
            seen.identity == identity || (same_inode && refusal == Refusal::Directory)
        });
        let since = before.map_or(self.now, |seen| seen.since);
        if before.is_none_or(|seen| seen.refusal.as_ref() != Some(&refusal)) {
            let name = name::printable(&name);
            self.scan.refused.push(Refused { name, reason: refusal.clone() });
        }
        self.remember(name, identity, since, Some(refusal));
    }

    fn remember(
        &mut self,
        name: OsString,
        identity: Identity,
        since: BootMs,
        refusal: Option<Refusal>,
    ) {
        self.seen.insert(name, Seen { identity, since, refusal });
    }
}

/// Anything but a regular file.
pub(super) fn refusal_of_type(stat: &Stat) -> Option<Refusal> {
    match file_type(stat) {
        FileType::RegularFile => None,
        FileType::Directory => Some(Refusal::Directory),
        FileType::Symlink => Some(Refusal::SymbolicLink),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Some(Refusal::Special),
    }
}

/// What may pass while a file is being written: some writers link it into place and then unlink
/// the other name.
pub(super) fn refusal_of_file(bytes: u64, links: u64) -> Option<Refusal> {
    let max = caps::FILE_MAX_BYTES;
    match (links, bytes) {
        (2.., _) => Some(Refusal::HardLink { links }),
        (_, bytes) if bytes > max => Some(Refusal::TooLarge { bytes, max }),
        _ => None,
    }
}

/// Nanoseconds since the Unix epoch; a time past the year 2262 is clamped.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: u64) -> i64 {
    let below = i64::try_from(nanoseconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(below)
}
