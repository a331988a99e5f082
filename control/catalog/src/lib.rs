//! The durable truth: keys, versions, manifests.
