//! What is submitted, and where it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::only_failed::OnlyFailed;
use super::{EX_FAILURE, EX_USAGE, Failure};
use crate::caps;
use crate::formats;

/// A job file to be submitted.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// What the daemon is told that it is called.
    pub(super) file_name: String,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    File(PathBuf),
    Stdin,
    OnlyFailed(OnlyFailed),
}

/// An open one.
pub(super) struct Open {
    pub(super) reader: Box<dyn Read + Send>,
    /// Its bytes, where they are known before.
    pub(super) length: Option<u64>,
}

impl Content {
    /// A file of this machine, under its name.
    pub(super) fn file(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let told =
            |why: &dyn std::fmt::Display| Failure::new(EX_FAILURE, format!("{shown}: {why}"));
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| told(&"the file's name is not text"))?;
        formats::recognise(name).map_err(|error| told(&error))?;
        // Opened at once, so that nothing is submitted when one of several is not there.
        let about =
            File::open(path).and_then(|file| file.metadata()).map_err(|error| told(&error))?;
        if about.is_dir() {
            return Err(told(&"a directory: name job files"));
        }
        Ok(Self { file_name: name.to_owned(), from: From::File(path.to_owned()) })
    }

    /// What stands on stdin, under this name.
    pub(super) fn stdin(name: Option<&str>) -> Result<Self, Failure> {
        let Some(name) = name else {
            let why = "-: say with --name what it is called, with the suffix: --name jobs.jsonl";
            return Err(Failure::new(EX_USAGE, why));
        };
        formats::recognise(name)
            .map_err(|error| Failure::new(EX_USAGE, format!("--name {name}: {error}")))?;
        Ok(Self { file_name: name.to_owned(), from: From::Stdin })
    }

    /// What `results` has no answer to, and how many that are.
    pub(super) fn only_failed(path: &Path, results: &Path) -> Result<(Self, u64), Failure> {
        let whole = Self::file(path)?;
        let has = |suffix: &str| whole.file_name.to_ascii_lowercase().ends_with(suffix);
        if !has(".jsonl") && !has(".ndjson") && !has(".txt") {
            let why = "--only-failed takes .jsonl and .txt files, unpacked";
            return Err(Failure::new(EX_USAGE, format!("{}: {why}", path.display())));
        }
        let only = OnlyFailed::new(path, has(".txt"), results);
        let only = only.map_err(|why| Failure::new(EX_FAILURE, why))?;
        let found = only
            .count()
            .map_err(|error| Failure::new(EX_FAILURE, format!("{}: {error}", path.display())))?;
        if found.keyless > 0 {
            eprintln!("{} lines have no key of their own and are left out.", found.keyless);
        }
        Ok((Self { from: From::OnlyFailed(only), ..whole }, found.items))
    }

    /// Whether it can be read again.
    pub(super) fn is_repeatable(&self) -> bool {
        match self.from {
            From::File(_) | From::OnlyFailed(_) => true,
            From::Stdin => false,
        }
    }

    pub(super) fn open(&self) -> Result<Open, Failure> {
        let opened = || {
            Ok(match &self.from {
                From::File(path) => {
                    let file = File::open(path)?;
                    let about = file.metadata()?;
                    let length = about.is_file().then_some(about.len());
                    Open { reader: Box::new(file), length }
                }
                From::Stdin => Open { reader: Box::new(io::stdin()), length: None },
                From::OnlyFailed(only) => Open { reader: Box::new(only.open()?), length: None },
            })
        };
        opened().map_err(|error: io::Error| {
            Failure::new(EX_FAILURE, format!("{}: {error}", self.file_name))
        })
    }
}

/// The first line of `content`, as much of it as options may be long, and `content` from its start.
pub(super) fn peek(
    mut content: Box<dyn Read + Send>,
) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut start = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = start.iter().position(|&byte| byte == b'\n') {
            break end;
        }
        let n = match content.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if n == 0 || start.len() > caps::OPTIONS_MAX_BYTES {
            break start.len();
        }
        start.extend_from_slice(&piece[..n]);
    };
    let first = start[..end].to_vec();
    Ok((first, Box::new(io::Cursor::new(start).chain(content))))
}
