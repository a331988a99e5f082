//! Conformance, cluster and crash suites over real processes.
