//! The other side of the protocol: how `tidegate submit` puts a file into `incoming/`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::dir::Dir;
use super::name::{self, SIDECAR_SUFFIX};
use super::{SpoolError, caps};

/// Group bits, because a default ACL on `incoming/` lets the daemon read through them: they are
/// the mask of the ACL. Without an ACL the umask takes them away as it should.
const MODE: u32 = 0o660;

/// Drops `content` into `incoming/` under `file_name`, or under `NAME-2`, `NAME-3` … with the
/// format suffixes kept if that is taken, and returns where. The options (`sidecar`) are there
/// before the file is; the file appears whole, and is durable when this returns. Needs no more
/// than permission to write into `incoming/`, which must exist.
pub fn drop_in(
    root: &Path,
    file_name: &str,
    content: &mut dyn Read,
    sidecar: Option<&str>,
) -> Result<PathBuf, SpoolError> {
    name::check(OsStr::new(file_name))
        .ok()
        .filter(|name| !name::is_ignored(OsStr::new(name)))
        .ok_or_else(|| bad_name(file_name))?;
    // A submitter may write into the directory but not list it.
    let incoming = Dir::open(&root.join("incoming"), OFlags::PATH)?;
    let aside = format!(".{}.part", uuid::Uuid::now_v7());
    let mut options = sidecar.map(|_| format!("{aside}{SIDECAR_SUFFIX}"));
    let dropped = write_aside(&incoming, &aside, file_name, content).and_then(|file| {
        if let (Some(text), Some(options)) = (sidecar, &options) {
            write_aside(&incoming, options, file_name, &mut text.as_bytes())?;
        }
        let path = place(&incoming, file_name, &aside, &mut options)?;
        sync(&incoming, &file)?;
        Ok(path)
    });
    if dropped.is_err() {
        // The first error tells more than a second one from tidying up.
        drop(incoming.remove(&aside));
        drop(options.map(|options| incoming.remove(&options)));
    }
    dropped
}

fn bad_name(file_name: &str) -> SpoolError {
    let reason = name::check(OsStr::new(file_name))
        .err()
        .unwrap_or(super::Refusal::Name { fault: "reads as a file that is still being written" });
    SpoolError::BadName { name: file_name.to_owned(), reason }
}

fn write_aside(
    incoming: &Dir,
    aside: &str,
    file_name: &str,
    content: &mut dyn Read,
) -> Result<File, SpoolError> {
    let mut file = incoming.create_file(aside, MODE)?;
    let mut buffer = vec![0; caps::BUFFER_BYTES];
    let write_error = |error| SpoolError::io("write", incoming.join(aside), error);
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => file.write_all(&buffer[..n]).map_err(write_error)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(SpoolError::Content { name: file_name.to_owned(), source });
            }
        }
    }
    file.sync_all().map_err(write_error)?;
    Ok(file)
}

/// Renames both into place, the options first. `options` follows the options file, so that the
/// caller can remove it wherever it got to.
fn place(
    incoming: &Dir,
    file_name: &str,
    aside: &str,
    options: &mut Option<String>,
) -> Result<PathBuf, SpoolError> {
    for n in 1..=caps::NAME_TRIES_MAX {
        let tried = name::numbered(file_name, n);
        let tried_options = format!("{tried}{SIDECAR_SUFFIX}");
        // Looked for first: our options must not stand beside another file, nor its beside ours.
        if incoming.stat(&tried)?.is_some() || incoming.stat(&tried_options)?.is_some() {
            continue;
        }
        if let Some(current) = options {
            if !incoming.rename_new(current, incoming, &tried_options)? {
                continue;
            }
            *current = tried_options;
        }
        if incoming.rename_new(aside, incoming, &tried)? {
            return Ok(incoming.join(&tried));
        }
    }
    Err(SpoolError::NoFreeName { name: file_name.to_owned() })
}

fn sync(incoming: &Dir, file: &File) -> Result<(), SpoolError> {
    match Dir::open(incoming.path(), OFlags::RDONLY).and_then(|dir| dir.sync()) {
        Ok(()) => Ok(()),
        // A directory that may not be listed cannot be opened to be synced. Syncing the file
        // commits the journal, and with it the rename, on the file systems that keep one.
        Err(SpoolError::NotPermitted { path, .. }) => {
            file.sync_all().map_err(|error| SpoolError::io("sync", path, error))
        }
        Err(error) => Err(error),
    }
}
