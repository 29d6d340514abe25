//! Which keys of a file occur more than once, in bounded memory: an external sort of their hashes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::spool;

/// Keys held in memory before they are sorted and written: 16 MiB.
const RUN_KEYS: usize = 1 << 20;

/// Bytes of a key on disk: its hash and the number of its line.
const ENTRY_BYTES: usize = 12;

/// Entries read at once of each run: at 10,000,000 keys all runs together hold half a MiB.
const READ_KEYS: usize = 4096;

/// The hash of a key and the number of its line.
type Entry = (u64, u32);

/// The keys of a file, one after the other.
#[derive(Debug)]
pub(super) struct Keys {
    /// Differs from file to file, so nobody can make keys whose hashes meet.
    hasher: RandomState,
    held: Vec<Entry>,
    spilled: Option<Spilled>,
    directory: PathBuf,
}

/// Sorted runs in a file that has no name any more.
#[derive(Debug)]
struct Spilled {
    out: BufWriter<File>,
    /// How many entries each run has.
    runs: Vec<usize>,
}

/// A line whose key has the hash of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Repeat {
    /// Its number.
    pub(super) line: u32,
    /// The number of the first line with that hash.
    pub(super) first: u32,
}

impl Keys {
    /// No keys yet. What does not fit in memory goes to a file in `directory` that has no name once
    /// it is open, so a crash leaves none.
    pub(super) fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self { hasher: RandomState::new(), held: Vec::new(), spilled: None, directory }
    }

    /// Notes the key of a line; lines come in their order.
    pub(super) fn note(&mut self, key: &str, line: u32) -> io::Result<()> {
        self.held.push((self.hasher.hash_one(key), line));
        if self.held.len() < RUN_KEYS { Ok(()) } else { self.spill() }
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.spilled.is_none() {
            let file = spool::nameless(&self.directory)?;
            let out = BufWriter::with_capacity(1 << 18, file);
            self.spilled = Some(Spilled { out, runs: Vec::new() });
        }
        let Some(spilled) = self.spilled.as_mut() else { return Ok(()) };
        self.held.sort_unstable();
        for (hash, line) in &self.held {
            spilled.out.write_all(&hash.to_le_bytes())?;
            spilled.out.write_all(&line.to_le_bytes())?;
        }
        spilled.runs.push(self.held.len());
        self.held.clear();
        Ok(())
    }

    /// Every line whose key has the hash of an earlier one, by number.
    pub(super) fn repeats(mut self) -> io::Result<Vec<Repeat>> {
        let mut repeats = Repeats::default();
        if self.spilled.is_some() {
            self.spill()?;
        }
        match self.spilled.take() {
            None => {
                self.held.sort_unstable();
                self.held.iter().copied().for_each(|entry| repeats.see(entry));
            }
            Some(spilled) => {
                drop(self.held);
                merge(spilled, &mut repeats)?;
            }
        }
        repeats.found.sort_unstable();
        Ok(repeats.found)
    }
}

/// Told every entry in order, keeps those whose hash came before.
#[derive(Default)]
struct Repeats {
    last: Option<Entry>,
    found: Vec<Repeat>,
}

impl Repeats {
    fn see(&mut self, (hash, line): Entry) {
        match self.last {
            Some((before, first)) if before == hash => self.found.push(Repeat { line, first }),
            Some(_) | None => self.last = Some((hash, line)),
        }
    }
}

fn merge(spilled: Spilled, repeats: &mut Repeats) -> io::Result<()> {
    let Spilled { out, runs } = spilled;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (mut readers, mut start) = (Vec::new(), 0);
    for length in runs {
        readers.push(Run { next: start, end: start + length, page: Vec::new() });
        start += length;
    }
    let mut heads = BinaryHeap::new();
    for (at, reader) in readers.iter_mut().enumerate() {
        heads.extend(reader.take(&file)?.map(|entry| Reverse((entry, at))));
    }
    while let Some(Reverse((entry, at))) = heads.pop() {
        repeats.see(entry);
        heads.extend(readers[at].take(&file)?.map(|entry| Reverse((entry, at))));
    }
    Ok(())
}

/// A sorted run, read page by page.
struct Run {
    /// The index of the next entry that is not in `page`, and the one behind the run's last.
    next: usize,
    end: usize,
    /// Entries read, the next one last.
    page: Vec<Entry>,
}

impl Run {
    fn take(&mut self, file: &File) -> io::Result<Option<Entry>> {
        if self.page.is_empty() && self.next < self.end {
            let count = (self.end - self.next).min(READ_KEYS);
            let mut bytes = vec![0; count * ENTRY_BYTES];
            let offset = u64::try_from(self.next * ENTRY_BYTES).map_err(io::Error::other)?;
            file.read_exact_at(&mut bytes, offset)?;
            self.next += count;
            self.page.extend(bytes.chunks_exact(ENTRY_BYTES).rev().map(entry));
        }
        Ok(self.page.pop())
    }
}

fn entry(bytes: &[u8]) -> Entry {
    let (hash, line) = bytes.split_at(8);
    let hash = hash.try_into().expect("an entry begins with eight bytes of hash");
    let line = line.try_into().expect("an entry ends with four bytes of number");
    (u64::from_le_bytes(hash), u32::from_le_bytes(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeats(keys: impl Iterator<Item = (String, u32)>) -> Vec<(u32, u32)> {
        let dir = tempfile::tempdir().expect("a directory");
        let mut all = Keys::new(dir.path());
        for (key, line) in keys {
            all.note(&key, line).expect("noted");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a listing").count(), 0, "no file is left");
        let found = all.repeats().expect("sorted");
        found.into_iter().map(|repeat| (repeat.line, repeat.first)).collect()
    }

    #[test]
    fn the_first_of_a_key_is_told_from_the_others() {
        let keys = ["b", "a", "b", "c", "a", "b"];
        let lines = (1..).step_by(3);
        let found = repeats(keys.map(str::to_owned).into_iter().zip(lines));
        assert_eq!(found, [(7, 1), (13, 4), (16, 1)]);
        assert_eq!(repeats(std::iter::empty()), []);
    }

    /// More than three runs, with repeats within one and across all.
    #[test]
    fn repeats_are_found_across_what_was_spilled() {
        let many = u32::try_from(RUN_KEYS).expect("a small number") * 3 + 10;
        let key = |line: u32| match line {
            7 | 1_048_580 | 3_145_737 => "same".to_owned(),
            2_000_000 => "key 1999999".to_owned(),
            line => format!("key {line}"),
        };
        let found = repeats((1..=many).map(|line| (key(line), line)));
        assert_eq!(found, [(1_048_580, 7), (2_000_000, 1_999_999), (3_145_737, 7)]);
    }
}
