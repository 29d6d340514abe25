//! Imported keys: one file each under `state_dir/keys/PROJECT/`, for the daemon's user alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::keys::{
    Key, KeyOrigin, NAME_BYTES_MAX, SecretFault, is_name, looks_like_secret, may_be_in_name,
    read_secret,
};
use super::keystore::Keystore;
use super::{Config, Origin, Project};

/// Below the state directory.
const DIR: &str = "keys";

/// What follows a key's name in its file's.
const SUFFIX: &str = ".key";

/// Keys of one project; the same as one keystore may hold, more is a mistake.
const PROJECT_KEYS_MAX: usize = 1_000;

/// Why imported keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Another user's state directory.
    #[error(
        "{} belongs to user {owner}: run this as that user (sudo -u '#{owner}' tidegate keys \
        import - --project {project} < FILE)",
        state_dir.display()
    )]
    Owner {
        /// The state directory.
        state_dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// The project.
        project: String,
    },
    /// The file system says no.
    #[error("cannot {doing} {}; only the daemon's user may, see --state-dir", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that holds no key.
    #[error("imported key {}: {what}; {fix}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },
    /// More than a project may have.
    #[error("project {0} would have more than {PROJECT_KEYS_MAX} keys: import fewer")]
    Many(String),
}

/// What an import came to: names and places, never a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// Whose keys they are now.
    pub project: String,
    /// The keystore's entries that were taken.
    pub services: Vec<String>,
    /// The keys that were new.
    pub added: Vec<ImportedKey>,
    /// The keys that the project had already.
    pub known: Vec<KnownKey>,
}

/// A key that was new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedKey {
    /// The keystore's entry.
    pub service: String,
    /// Its place there, from 1.
    pub place: usize,
    /// What reports call it from now on.
    pub name: String,
}

/// A key that the project had already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKey {
    /// The keystore's entry.
    pub service: String,
    /// Its place there, from 1.
    pub place: usize,
    /// What reports call it.
    pub name: String,
}

impl Config {
    /// Takes up the imported keys of every project behind the configured ones, in the order of
    /// their names and numbers. One that the configuration has too is left out. The built-in
    /// configuration needs no environment variable then.
    ///
    /// # Errors
    /// When they cannot be read: only the daemon's user may.
    pub fn with_imported_keys(mut self) -> Result<Self, ImportError> {
        let state_dir = self.server.state_dir.clone();
        for project in &mut self.projects {
            project.keys.retain(|key| !matches!(key.origin, KeyOrigin::Imported(_)));
            let imported = read_dir(&state_dir, &project.name)?;
            if self.origin == Origin::BuiltIn && !imported.is_empty() {
                project.absent_keys.clear();
            }
            for (name, path) in imported {
                let key = read_key(name, path)?;
                let configured = project.keys.iter().map(|key| &key.name);
                let mut configured =
                    configured.chain(project.absent_keys.iter().map(|key| &key.name));
                if configured.any(|other| *other == key.name) {
                    let path = directory(&state_dir, &project.name).join(key.name + SUFFIX);
                    let what = "the configuration has a key of this name".to_owned();
                    let fix = "rename the file or the configured key".to_owned();
                    return Err(ImportError::File { path, what, fix });
                }
                if let Some(known) = project.known_key(&key.secret) {
                    tracing::warn!(project.name = %project.name, key.name = %key.name,
                        "imported key {} is the same as {known}: left out", key.name);
                    continue;
                }
                project.keys.push(key);
            }
        }
        Ok(self)
    }
}

impl Project {
    /// The name under which a key is known already.
    fn known_key(&self, secret: &SecretString) -> Option<&str> {
        let same = |key: &&Key| key.secret.expose_secret() == secret.expose_secret();
        self.keys.iter().find(same).map(|key| key.name.as_str())
    }

    /// Writes the keys of a keystore that this project, whose imported keys were taken up, does
    /// not have yet. What is written stands, also when a later one cannot be.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn import_keys(
        &mut self,
        state_dir: &Path,
        keystore: &Keystore,
    ) -> Result<ImportReport, ImportError> {
        let mut report = ImportReport {
            project: self.name.clone(),
            services: keystore.entries.iter().map(|(service, _)| service.clone()).collect(),
            added: Vec::new(),
            known: Vec::new(),
        };
        check_owner(state_dir, &self.name)?;
        let mut last = self.last_numbers();
        for (service, keys) in &keystore.entries {
            let stem = stem_of(service);
            for (secret, place) in keys.iter().zip(1..) {
                let service = service.clone();
                if let Some(name) = self.known_key(secret).map(str::to_owned) {
                    report.known.push(KnownKey { service, place, name });
                    continue;
                }
                if self.keys.len() >= PROJECT_KEYS_MAX {
                    return Err(ImportError::Many(self.name.clone()));
                }
                let dir = make_directory(state_dir, &self.name)?;
                let number = last.entry(stem.clone()).or_insert(0);
                let (name, path) = loop {
                    *number += 1;
                    let name = format!("{stem}-{number}");
                    if let Some(path) = write_key(&dir, &name, secret)? {
                        break (name, path);
                    }
                };
                let origin = KeyOrigin::Imported(path);
                self.keys.push(Key { name: name.clone(), secret: secret.clone(), origin });
                report.added.push(ImportedKey { service, place, name });
            }
        }
        Ok(report)
    }

    /// The highest number of every name that ends with one.
    fn last_numbers(&self) -> BTreeMap<String, u64> {
        let absent = self.absent_keys.iter().map(|key| &key.name);
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for name in self.keys.iter().map(|key| &key.name).chain(absent) {
            let (stem, number) = order_of(name);
            let known = last.entry(stem.to_owned()).or_insert(0);
            *known = number.max(*known);
        }
        last
    }
}

/// A name's order among others: what is before its number, and the number.
fn order_of(name: &str) -> (&str, u64) {
    let split = name.rsplit_once('-').and_then(|(stem, n)| Some((stem, n.parse().ok()?)));
    split.unwrap_or((name, 0))
}

/// An entry's name as the names of its keys begin with it.
fn stem_of(service: &str) -> String {
    let fit = |c: char| if may_be_in_name(c) { c } else { '_' };
    // Room for the number.
    let stem: String = service.chars().map(fit).take(NAME_BYTES_MAX - 16).collect();
    let named = stem.starts_with(|c: char| c.is_ascii_alphanumeric());
    if named && !looks_like_secret(&stem) { stem } else { "key".to_owned() }
}

fn directory(state_dir: &Path, project: &str) -> PathBuf {
    state_dir.join(DIR).join(project)
}

/// The names and files of a project's imported keys, in their order.
fn read_dir(state_dir: &Path, project: &str) -> Result<Vec<(String, PathBuf)>, ImportError> {
    let dir = directory(state_dir, project);
    let failed = |source| ImportError::Io { doing: "read", path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        // A state directory that cannot be used is told of by whoever opens the database.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX));
        if let Some(name) = name.filter(|name| is_name(name)) {
            found.push((name.to_owned(), path));
        }
    }
    found.sort_by(|(a, _), (b, _)| order_of(a).cmp(&order_of(b)).then_with(|| a.cmp(b)));
    Ok(found)
}

fn read_key(name: String, path: PathBuf) -> Result<Key, ImportError> {
    match read_secret(&path, false) {
        Ok(secret) => Ok(Key { name, secret, origin: KeyOrigin::Imported(path) }),
        Err(SecretFault::Unreadable(source)) => {
            Err(ImportError::Io { doing: "read", path, source })
        }
        Err(SecretFault::Refused { what, fix }) => Err(ImportError::File { path, what, fix }),
    }
}

/// What another user writes the daemon cannot read.
fn check_owner(state_dir: &Path, project: &str) -> Result<(), ImportError> {
    let Ok(metadata) = fs::metadata(state_dir) else { return Ok(()) };
    if metadata.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let (owner, project) = (metadata.uid(), project.to_owned());
    Err(ImportError::Owner { state_dir: state_dir.to_path_buf(), owner, project })
}

/// The directory of a project's keys, made if need be.
fn make_directory(state_dir: &Path, project: &str) -> Result<PathBuf, ImportError> {
    let dir = directory(state_dir, project);
    let failed = |doing| {
        let path = dir.clone();
        move |source| ImportError::Io { doing, path, source }
    };
    if !dir.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(failed("make"))?;
        for above in dir.ancestors().skip(1).take(2) {
            sync_directory(above).map_err(failed("make"))?;
        }
    }
    Ok(dir)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a key under a name; `None` when there is one of that name.
fn write_key(
    dir: &Path,
    name: &str,
    secret: &SecretString,
) -> Result<Option<PathBuf>, ImportError> {
    let path = dir.join(format!("{name}{SUFFIX}"));
    let aside = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        // Left by an import that was killed.
        if let Err(error) = fs::remove_file(&aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match renameat_with(CWD, &aside, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => sync_directory(dir).map(|()| true),
            Err(rustix::io::Errno::EXIST) => fs::remove_file(&aside).map(|()| false),
            Err(errno) => Err(errno.into()),
        }
    };
    match write() {
        Ok(true) => Ok(Some(path)),
        Ok(false) => Ok(None),
        Err(source) => {
            // No half of a key stays behind; that it cannot be removed is the same trouble.
            let _ = fs::remove_file(&aside);
            Err(ImportError::Io { doing: "write", path, source })
        }
    }
}
