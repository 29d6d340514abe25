//! Taking a file from a client, beside [`Spool::claim`] for dropped ones.

use std::io::{self, Read, Write};

use rustix::fs::fstat;
use sha2::{Digest, Sha256};

use super::claim::{INPUT, INPUT_PART};
use super::dir::Dir;
use super::name::check_id;
use super::scan::nanoseconds;
use super::{Claimed, Identity, Refusal, Sidecar, Spool, SpoolError, caps};
use crate::gate::units::UnixMs;

impl Spool {
    /// Writes what a client sends to `working/ID/input`, fsynced and hashed, in bounded memory.
    /// `uid` is whose it is. After an error (the client went away, the disk is full, more than
    /// 2 GiB) nothing of it is left.
    pub fn receive(
        &self,
        id: &str,
        uid: u32,
        content: &mut dyn Read,
    ) -> Result<Claimed, SpoolError> {
        check_id(id)?;
        let work = self.working.subdirectory(id)?;
        if work.stat(INPUT)?.is_some() {
            return Err(SpoolError::Exists { path: work.join(INPUT) });
        }
        let received = write_part(&work, content).and_then(|(sha256, identity, changed)| {
            work.rename(INPUT_PART, &work, INPUT)?;
            work.sync()?;
            self.working.sync()?;
            Ok(Claimed {
                id: id.to_owned(),
                source: Identity { uid, ..identity },
                changed,
                sha256,
                input: work.join(INPUT),
                sidecar: Sidecar::Absent,
            })
        });
        if received.is_err() {
            // The first error tells more than a second one from tidying up.
            drop(work.remove(INPUT_PART));
            drop(work.remove(INPUT));
            drop(self.working.remove_if_empty(id));
        }
        received
    }
}

fn write_part(
    work: &Dir,
    content: &mut dyn Read,
) -> Result<([u8; 32], Identity, UnixMs), SpoolError> {
    let path = work.join(INPUT_PART);
    let mut part = work.create_file(INPUT_PART, 0o600)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; caps::BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let n = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(SpoolError::Content { name: INPUT.to_owned(), source });
            }
        };
        bytes += u64::try_from(n).unwrap_or(u64::MAX);
        let max = caps::FILE_MAX_BYTES;
        if bytes > max {
            return Err(SpoolError::Refused { path, reason: Refusal::TooLarge { bytes, max } });
        }
        hash.update(&buffer[..n]);
        part.write_all(&buffer[..n]).map_err(|error| SpoolError::io("write", &path, error))?;
    }
    part.sync_all().map_err(|error| SpoolError::io("sync", &path, error))?;
    let stat = fstat(&part).map_err(|error| SpoolError::io("look at", &path, error))?;
    let changed = nanoseconds(stat.st_ctime, stat.st_ctime_nsec).div_euclid(1_000_000);
    Ok((hash.finalize().into(), Identity::of(&stat), UnixMs(changed)))
}
