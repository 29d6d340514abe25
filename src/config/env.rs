//! The process environment as a value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variables, as an argument: what reads them can be tested without touching those
/// of the process. `Debug` shows the names alone, because the values hold keys.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// The variables of this process, as they are at the call.
    #[must_use]
    pub fn from_process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let vars = std::env::vars_os();
        Self(vars.collect())
    }

    /// The value of a variable that is set, not empty and UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(OsString::from(name).as_os_str())?.to_str().filter(|value| !value.is_empty())
    }

    /// The value of a variable that is set and not empty, as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.0
            .get(OsString::from(name).as_os_str())
            .filter(|value| !value.is_empty())
            .map(Path::new)
    }

    /// The XDG directory that `variable` names, else `default` under the home directory; `None`
    /// without either. A relative value counts as unset, as the XDG specification says.
    pub(super) fn xdg(&self, variable: &str, default: &str) -> Option<PathBuf> {
        let named = self.path(variable).filter(|path| path.is_absolute()).map(Path::to_path_buf);
        named.or_else(|| {
            let home = self.path("HOME").filter(|path| path.is_absolute())?;
            Some(home.join(default))
        })
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
