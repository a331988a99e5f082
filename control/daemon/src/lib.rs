//! Boots shards, opens doors.
