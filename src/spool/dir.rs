//! One open directory: every operation on it goes by descriptor and single name, never follows a
//! link, and says in its error which path it was about.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{SpoolError, acl, caps};

#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory, and makes it and its parents (0700) if it is missing.
    pub(super) fn create(path: &Path) -> Result<Self, SpoolError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        match made {
            Ok(()) => Self::open(path, OFlags::RDONLY),
            // A file or a dangling link stands there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(SpoolError::NotADirectory { path: path.to_owned() })
            }
            Err(error) => Err(SpoolError::io("make", path, error)),
        }
    }

    /// Opens an existing directory with `access`: `RDONLY`, or `PATH` where only names may be
    /// used and the listing is forbidden.
    pub(super) fn open(path: &Path, access: OFlags) -> Result<Self, SpoolError> {
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match sys::openat(sys::CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(SpoolError::NotADirectory { path: path.to_owned() })
            }
            Err(error) => Err(SpoolError::io("open", path, error)),
        }
    }

    /// The directory `name` in this one, made (0700) if it is missing.
    pub(super) fn subdirectory(&self, name: &str) -> Result<Self, SpoolError> {
        let path = self.join(name);
        match sys::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(&path, OFlags::RDONLY),
            Err(error) => Err(SpoolError::io("make", path, error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Fails when the directory was removed since it was opened.
    pub(super) fn still_there(&self) -> Result<(), SpoolError> {
        let io = |error| SpoolError::io("look at", &self.path, error);
        let open = sys::fstat(&self.fd).map_err(io)?;
        let named = match sys::lstat(&self.path) {
            Ok(stat) => Some((stat.st_dev, stat.st_ino)),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(error) => return Err(io(error)),
        };
        if named == Some((open.st_dev, open.st_ino)) {
            return Ok(());
        }
        Err(SpoolError::Replaced { path: self.path.clone() })
    }

    /// The names in it, in no order, without `.` and `..`.
    pub(super) fn names(
        &self,
    ) -> Result<impl Iterator<Item = Result<OsString, SpoolError>>, SpoolError> {
        let list = |error| SpoolError::io("list", &self.path, error);
        let entries = sys::Dir::read_from(&self.fd).map_err(list)?;
        Ok(entries.filter_map(move |entry| match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => None,
                name => Some(Ok(OsStr::from_bytes(name).to_owned())),
            },
            Err(error) => Some(Err(list(error))),
        }))
    }

    /// What stands under `name`, a link itself and not what it points to; `None` if nothing does.
    pub(super) fn stat(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>, SpoolError> {
        let name = name.as_ref();
        match sys::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(SpoolError::io("look at", self.join(name), error)),
        }
    }

    /// Whether this process may read `name`.
    pub(super) fn may_read(&self, name: &str) -> bool {
        sys::accessat(&self.fd, name, sys::Access::READ_OK, AtFlags::EACCESS).is_ok()
    }

    /// Opens a foreign file for reading; neither a link nor a pipe nor a terminal gets the better
    /// of us.
    pub(super) fn open_file(&self, name: &str) -> Result<File, Errno> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        sys::openat(&self.fd, name, flags, Mode::empty()).map(File::from)
    }

    /// Makes a file of our own, or empties the one a crash left there.
    pub(super) fn create_file(&self, name: &str, mode: u32) -> Result<File, SpoolError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match sys::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => Ok(File::from(fd)),
            Err(error) => Err(SpoolError::io("make", self.join(name), error)),
        }
    }

    /// Opens a file of our own for reading and writing, or makes it; says whether it was made.
    pub(super) fn open_own(&self, name: &str) -> Result<(File, bool), SpoolError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |error| SpoolError::io("open", self.join(name), error);
        match sys::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok((File::from(fd), false)),
            Err(Errno::NOENT) => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                let fd = sys::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600));
                Ok((File::from(fd.map_err(failed)?), true))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Puts a whole file under `name`, or leaves what stands there: written aside, fsynced, then
    /// renamed over it. The rename is durable after the next [`Dir::sync`].
    pub(super) fn write_file(
        &self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SpoolError> {
        self.write_file_for(name, None, content)
    }

    /// The same; with a user who may read it.
    pub(super) fn write_file_for(
        &self,
        name: &str,
        reader: Option<u32>,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SpoolError> {
        let aside = format!(".{name}.part");
        let file = self.create_file(&aside, 0o600)?;
        if let Some(uid) = reader {
            self.share(&file, name, uid);
        }
        let mut out = BufWriter::with_capacity(caps::BUFFER_BYTES, file);
        let written = content(&mut out)
            .and_then(|()| out.flush())
            .and_then(|()| out.get_ref().sync_all())
            .map_err(|error| SpoolError::io("write", self.join(name), error))
            .and_then(|()| self.rename(&aside, self, name));
        if written.is_err() {
            // The first error tells more than a second one from tidying up.
            drop(self.remove(&aside));
        }
        written
    }

    /// Lets a user read a file of ours. Where that cannot be, the API gives it to him.
    pub(super) fn share(&self, file: &File, name: &str, uid: u32) {
        match acl::share(file, uid) {
            Ok(true) => {}
            Ok(false) => tracing::debug!(path = %self.join(name).display(), uid,
                "the file system has no access lists: user {uid} gets results from the API only"),
            Err(error) => tracing::warn!(path = %self.join(name).display(), uid, %error,
                "user {uid} cannot be let read {}: {error}", self.join(name).display()),
        }
    }

    /// Lets a user read the file `name`, which is ours.
    pub(super) fn share_named(&self, name: &str, uid: u32) {
        match self.open_file(name) {
            Ok(file) => self.share(&file, name, uid),
            Err(error) => tracing::warn!(path = %self.join(name).display(), uid, %error,
                "user {uid} cannot be let read {}: {error}", self.join(name).display()),
        }
    }

    /// Renames over whatever stands in the new place.
    pub(super) fn rename(&self, name: &str, to: &Self, new: &str) -> Result<(), SpoolError> {
        self.rename_with(name, to, new, RenameFlags::empty()).map(|_| ())
    }

    /// Renames unless something stands in the new place; says whether it did.
    pub(super) fn rename_new(&self, name: &str, to: &Self, new: &str) -> Result<bool, SpoolError> {
        self.rename_with(name, to, new, RenameFlags::NOREPLACE)
    }

    fn rename_with(
        &self,
        name: &str,
        to: &Self,
        new: &str,
        flags: RenameFlags,
    ) -> Result<bool, SpoolError> {
        match sys::renameat_with(&self.fd, name, &to.fd, new, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if flags == RenameFlags::NOREPLACE => Ok(false),
            Err(Errno::XDEV) => {
                Err(SpoolError::TwoFileSystems { from: self.path.clone(), to: to.path.clone() })
            }
            Err(Errno::NOENT) => Err(SpoolError::Gone { path: self.join(name) }),
            Err(error) => Err(SpoolError::io("rename", self.join(name), error)),
        }
    }

    /// Removes a file; says whether there was one.
    pub(super) fn remove(&self, name: &str) -> Result<bool, SpoolError> {
        match sys::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(SpoolError::io("remove", self.join(name), error)),
        }
    }

    /// Removes a directory in this one if it is empty.
    pub(super) fn remove_if_empty(&self, name: &str) -> Result<(), SpoolError> {
        match sys::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(SpoolError::io("remove", self.join(name), error)),
        }
    }

    /// Makes the renames and removals in it durable.
    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        sys::fsync(&self.fd).map_err(|error| SpoolError::io("sync", &self.path, error))
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
