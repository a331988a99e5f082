//! A seeded world that drives flow and plan.
