//! What can go wrong in the spool, with the path and what to do.

use std::io;
use std::path::PathBuf;

/// A step of the spool that failed. Nothing a user dropped is lost by any of them.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system is full or the quota used up.
    #[error(
        "no space left to {action} {path:?}: free space; what was dropped stays where it is and \
         is tried again"
    )]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The permissions do not allow it.
    #[error("not permitted to {action} {path:?}: give this user permission on it")]
    NotPermitted {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// One of the five is something else.
    #[error("{path:?} is not a directory: move it away, the directory is made at start")]
    NotADirectory {
        /// The name that is taken.
        path: PathBuf,
    },
    /// A file cannot be renamed from one directory to the other.
    #[error("{from:?} and {to:?} are not on one file system: put the whole spool on one")]
    TwoFileSystems {
        /// Where the file was.
        from: PathBuf,
        /// Where it should have gone.
        to: PathBuf,
    },
    /// A directory of the spool was removed while it was open.
    #[error("{path:?} was removed or replaced while in use: restart the daemon to make it again")]
    Replaced {
        /// The directory.
        path: PathBuf,
    },
    /// An entry of `incoming/` that is not taken.
    #[error("{path:?} is not taken: it {reason}")]
    Refused {
        /// The entry.
        path: PathBuf,
        /// Why, and what to do.
        reason: Refusal,
    },
    /// The file is not what the scan saw: someone still writes it, or replaced it.
    #[error(
        "{path:?} changed while it was read: it stays there and is read again once it is still"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file was taken away before it was read.
    #[error("{path:?} is gone: drop it again if that was not meant")]
    Gone {
        /// Where the file was.
        path: PathBuf,
    },
    /// Something stands where a file should be made.
    #[error("{path:?} exists already: move it away")]
    Exists {
        /// What stands there.
        path: PathBuf,
    },
    /// An id that cannot name a directory in `working/`.
    #[error("a batch id is 1 to 64 letters, digits or '-', not {id:?}")]
    BadId {
        /// What was given.
        id: String,
    },
    /// A name that cannot be the name of a batch or of a dropped file.
    #[error("{name:?} cannot be a name in the spool: it {reason}")]
    BadName {
        /// What was given.
        name: String,
        /// Why.
        reason: Refusal,
    },
    /// All numbered names are used.
    #[error("no free name like {name:?}: clear out done/, failed/ and rejected/")]
    NoFreeName {
        /// The name asked for.
        name: String,
    },
    /// The content to be dropped could not be read.
    #[error("cannot read what should be dropped as {name:?}: nothing was dropped")]
    Content {
        /// The name it should have got.
        name: String,
        /// The reader's answer.
        #[source]
        source: io::Error,
    },
}

impl SpoolError {
    /// Sorts an I/O error into the variants that need another remedy.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.into(), source.into());
        let kind = source.kind();
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::NoSpace { action, path, source };
        }
        if kind == io::ErrorKind::PermissionDenied {
            return Self::NotPermitted { action, path, source };
        }
        Self::Io { action, path, source }
    }
}

/// Why an entry of `incoming/` is not taken. Reads on after "it …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A symbolic link, wherever it points.
    #[error("is a symbolic link: drop the file itself")]
    SymbolicLink,
    /// A directory.
    #[error("is a directory: drop files")]
    Directory,
    /// A named pipe, a socket or a device.
    #[error("is a pipe, a socket or a device: drop a regular file")]
    Special,
    /// Another name leads to the same file, and could change it behind our back.
    #[error("has {links} hard links: drop a copy of its own")]
    HardLink {
        /// The number of its names.
        links: u64,
    },
    /// Above the size limit.
    #[error("has {bytes} bytes, more than {max}: split it")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The permissions forbid reading it.
    #[error("cannot be read: let the daemon's user read it")]
    Unreadable,
    /// The name is not one the spool takes.
    #[error("has a bad name ({fault}): rename it")]
    Name {
        /// What is wrong with the name.
        fault: &'static str,
    },
    /// An options file that is not text.
    #[error("is not UTF-8 text")]
    NotText,
}
