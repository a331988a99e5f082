//! Services, which may own keys.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

/// Asks for the services that are alive; answered by [`CatalogServiceListing`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogServices {}

/// The services that are alive.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogServiceListing {
    /// The services, by name.
    pub services: Vec<ServiceRecord>,
}

/// A service that may own keys.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct ServiceRecord {
    /// Its name.
    pub name: String,
    /// Milliseconds that it lives unless it is kept alive.
    pub ttl_ms: u64,
    /// Milliseconds of them that are left.
    pub left_ms: u64,
    /// How many keys it owns.
    pub keys: u64,
}

/// Registers a service or keeps it alive; answered by `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ServiceKeep {
    /// Its name.
    pub name: String,
    /// Milliseconds that it lives from now on.
    pub ttl_ms: u64,
}

/// Ends a service and removes what it owns; answered by `KeyRemoved`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ServiceEnd {
    /// Its name.
    pub name: String,
}
