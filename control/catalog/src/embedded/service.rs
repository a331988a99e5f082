//! Who is alive of those that own keys. When a service was last kept alive is in memory only: after a restart each has
//! its whole time again.

use std::collections::BTreeMap;

use super::rows::Registered;

/// The services.
pub(crate) struct Services {
    services: BTreeMap<String, State>,
}

#[derive(Clone, Copy)]
struct State {
    registered: Registered,
    /// Until when it lives.
    until_ms: u64,
}

impl Services {
    pub(crate) fn new(services: impl IntoIterator<Item = (String, Registered)>, now_ms: u64) -> Self {
        let mut known = Self { services: BTreeMap::new() };
        services.into_iter().for_each(|(name, registered)| known.set(name, registered, now_ms));
        known
    }

    /// Notes what is registered, and that it was alive at a time.
    pub(crate) fn set(&mut self, name: String, registered: Registered, now_ms: u64) {
        let until_ms = now_ms.saturating_add(registered.ttl_ms);
        self.services.insert(name, State { registered, until_ms });
    }

    /// Keeps a service alive of which nothing else changes; whether it is one.
    pub(crate) fn renew(&mut self, name: &str, ttl_ms: u64, now_ms: u64) -> bool {
        let known = self.services.get_mut(name);
        let known = known.filter(|state| state.lives_at(now_ms) && state.registered.ttl_ms == ttl_ms);
        known.map(|state| state.until_ms = state.until_ms.max(now_ms.saturating_add(ttl_ms))).is_some()
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.services.remove(name);
    }

    /// What is registered.
    pub(crate) fn get(&self, name: &str) -> Option<Registered> {
        self.services.get(name).map(|state| state.registered)
    }

    /// Whether it may own keys.
    pub(crate) fn lives(&self, name: &str, now_ms: u64) -> bool {
        self.services.get(name).is_some_and(|state| state.lives_at(now_ms))
    }

    /// Those that are alive: name, milliseconds that it lives, and how many are left.
    pub(crate) fn alive(&self, now_ms: u64) -> Vec<(String, u64, u64)> {
        let alive = self.services.iter().filter(|(_, state)| state.lives_at(now_ms));
        alive.map(|(name, state)| (name.clone(), state.registered.ttl_ms, state.until_ms - now_ms)).collect()
    }

    /// Those that are not alive and still here.
    pub(crate) fn over(&self, now_ms: u64) -> Vec<String> {
        let over = self.services.iter().filter(|(_, state)| !state.lives_at(now_ms));
        over.map(|(name, _)| name.clone()).collect()
    }
}

impl State {
    fn lives_at(&self, now_ms: u64) -> bool {
        !self.registered.ending && self.until_ms > now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_lives_as_long_as_it_was_kept_alive() {
        let registered = Registered { ttl_ms: 10, ending: false };
        let ending = Registered { ttl_ms: 10, ending: true };
        let mut services = Services::new([("a".into(), registered), ("b".into(), ending)], 100);
        assert!(services.lives("a", 109) && !services.lives("a", 110) && !services.lives("b", 100));
        assert_eq!((services.alive(104), services.over(104)), (vec![("a".into(), 10, 6)], vec!["b".into()]));
        services.set("a".into(), registered, 105);
        services.remove("b");
        assert!(services.lives("a", 114) && services.over(114).is_empty() && services.get("b").is_none());
    }
}
