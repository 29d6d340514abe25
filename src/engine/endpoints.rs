//! Where requests go, and with which keys.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use secrecy::SecretString;

use crate::config::{Config, Key, Provider};
use crate::upstream::{Call, Method, Wire};

/// Where each project's requests go, by row id. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<RwLock<BTreeMap<i64, Endpoint>>>);

/// Where a project's requests go.
#[derive(Clone, Debug)]
struct Endpoint {
    /// Scheme, host and port.
    base_url: String,
    /// What is spoken there.
    wire: Wire,
    /// Every key that it has or had: requests under way go by its place.
    keys: Vec<Key>,
}

impl Endpoints {
    /// The endpoints of every project of the configuration; the engine has the keys in the same
    /// order.
    #[must_use]
    pub fn new(config: &Config, ids: &BTreeMap<String, i64>) -> Self {
        let of = |project: &crate::config::Project| {
            let (base_url, keys) = (project.base_url.clone(), project.keys.clone());
            let wire = wire_of(project.provider);
            Some((*ids.get(&project.name)?, Endpoint { base_url, wire, keys }))
        };
        Self(Arc::new(RwLock::new(config.projects.iter().filter_map(of).collect())))
    }

    /// The address of a project, what is spoken there, and one of its keys.
    ///
    /// # Panics
    /// When there is none: the engine knows places that it was told alone.
    #[must_use]
    pub fn find(&self, project: i64, place: usize) -> Destination {
        let endpoints = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let endpoint = &endpoints[&project];
        Destination {
            base_url: endpoint.base_url.clone(),
            wire: endpoint.wire,
            key: endpoint.keys[place].secret.clone(),
        }
    }

    /// Takes up the keys that a project has from now on; returns their places with their names.
    pub(super) fn take_up(&self, project: i64, keys: &[Key]) -> Vec<(usize, String)> {
        let mut endpoints = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(endpoint) = endpoints.get_mut(&project) else { return Vec::new() };
        let mut ring = Vec::new();
        for key in keys {
            let known = endpoint.keys.iter().position(|known| known.is_same(key));
            let place = known.unwrap_or_else(|| {
                endpoint.keys.push(key.clone());
                endpoint.keys.len() - 1
            });
            ring.push((place, key.name.clone()));
        }
        ring
    }
}

/// Where one request goes, and with which key.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Scheme, host and port.
    pub base_url: String,
    /// What is spoken there.
    pub wire: Wire,
    /// The key.
    pub key: SecretString,
}

impl Destination {
    /// A call that goes there.
    #[must_use]
    pub fn call(self, method: Method, model: String, body: Bytes) -> Call {
        let Self { base_url, wire, key } = self;
        Call { base_url, wire, method, model, key, body }
    }
}

/// What a provider speaks.
fn wire_of(provider: Provider) -> Wire {
    match provider {
        Provider::Gemini => Wire::Gemini,
        Provider::OpenAi => Wire::OpenAi,
    }
}
