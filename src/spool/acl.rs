//! Files of the daemon's that the one who submitted a job may read too.

use std::fs::File;

use rustix::fs::{XattrFlags, fsetxattr};
use rustix::io::Errno;

/// The extended attribute of a POSIX access control list.
const NAME: &str = "system.posix_acl_access";

/// Version 2 of the attribute's format, the only one that Linux takes.
const VERSION: u32 = 2;

/// The tags of an entry, and the id where there is none.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

const READ: u16 = 4;
const WRITE: u16 = 2;

/// Lets user `uid` read `file` besides its owner, and nobody else. Nothing for the owner himself or
/// root, who may anyway. False where the file system has no such lists: then the owner alone may.
pub(super) fn share(file: &File, uid: u32) -> Result<bool, Errno> {
    let own = rustix::process::geteuid().as_raw();
    if uid == own || uid == 0 {
        return Ok(true);
    }
    let entries = [
        (USER_OBJ, READ | WRITE, NO_ID),
        (USER, READ, uid),
        (GROUP_OBJ, 0, NO_ID),
        (MASK, READ, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&permissions.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    match fsetxattr(file, NAME, &list, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}
