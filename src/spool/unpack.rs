//! Packed job files: what is in them, as a file beside them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::claim::INPUT;
use super::name::check_id;
use super::{Spool, SpoolError, caps};
use crate::formats::Packing;

/// What was in `working/ID/input`.
pub(super) const TEXT: &str = "text";

/// What became of a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// Its content stands beside it.
    Done,
    /// It cannot be unpacked: why, and what to do.
    Bad(String),
}

impl Spool {
    /// Unpacks the input of batch `id` beside it, durably, unless that is done already or it is not
    /// packed. Holds no more than a window of it in memory, and stops where it grows past what a
    /// job file may have.
    pub fn unpack(&self, id: &str, packing: Packing) -> Result<Unpacked, SpoolError> {
        check_id(id)?;
        if packing == Packing::Plain {
            return Ok(Unpacked::Done);
        }
        let work = self.working.subdirectory(id)?;
        if work.stat(TEXT)?.is_some() {
            return Ok(Unpacked::Done);
        }
        let path = work.join(INPUT);
        let input =
            work.open_file(INPUT).map_err(|error| SpoolError::io("open", path.clone(), error))?;
        let mut reader = match reader(input, packing) {
            Ok(reader) => reader,
            Err(error) => return Ok(Unpacked::Bad(broken(packing, &error))),
        };
        let mut bad = None;
        let written = work.write_file(TEXT, |out| {
            bad = copy(&mut reader, out, packing)?;
            // Nothing is to stand there then.
            if bad.is_some() { Err(io::Error::other("cannot be unpacked")) } else { Ok(()) }
        });
        match (bad, written) {
            (Some(reason), _) => Ok(Unpacked::Bad(reason)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => {
                work.sync()?;
                Ok(Unpacked::Done)
            }
        }
    }
}

/// What is in a file that may be packed, as a file without a name in `directory`, or the file
/// itself. Within: why it cannot be unpacked.
pub fn unpacked(
    input: File,
    packing: Packing,
    directory: &Path,
) -> io::Result<Result<File, String>> {
    if packing == Packing::Plain {
        return Ok(Ok(input));
    }
    let mut reader = match reader(input, packing) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(broken(packing, &error))),
    };
    let mut out = nameless(directory)?;
    if let Some(reason) = copy(&mut reader, &mut out, packing)? {
        return Ok(Err(reason));
    }
    out.rewind()?;
    Ok(Ok(out))
}

/// A file in `directory` that has no name once it is open: it goes with its last user.
pub fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".{}", uuid::Uuid::now_v7()));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn reader(input: File, packing: Packing) -> io::Result<Box<dyn Read>> {
    let input = BufReader::with_capacity(caps::BUFFER_BYTES, input);
    Ok(match packing {
        Packing::Plain => Box::new(input),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(caps::ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// Copies all, or says why it cannot be unpacked. An error is one of writing.
fn copy(from: &mut dyn Read, to: &mut dyn Write, packing: Packing) -> io::Result<Option<String>> {
    let mut buffer = vec![0; caps::BUFFER_BYTES];
    let mut bytes: u64 = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(broken(packing, &error))),
        };
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if bytes > caps::FILE_MAX_BYTES {
            let max = caps::FILE_MAX_BYTES;
            return Ok(Some(format!(
                "what is packed in it has more than {max} bytes: split it into several files"
            )));
        }
        to.write_all(&buffer[..read])?;
    }
}

fn broken(packing: Packing, error: &io::Error) -> String {
    format!(
        "it cannot be unpacked ({error}): pack it anew with `{}`",
        match packing {
            Packing::Plain => "cat",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    )
}
