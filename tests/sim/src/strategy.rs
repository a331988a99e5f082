//! Who sends to whom: the swarm, and what it is compared with.

use std::fmt;
use std::str::FromStr;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// The scheduler of `flow`, as it runs in production.
    Swarm,
    /// The origin sends every piece to every receiver.
    Star,
    /// Each node sends to the next, piece by piece.
    Chain,
    /// A binary tree, piece by piece.
    Tree,
    /// Two binary trees with half of the pieces each; inner nodes of one are leaves of the other.
    DoubleTree,
    /// A binomial tree, piece by piece.
    Binomial,
    /// The origin sends each receiver a part, and the parts go round a ring of all receivers.
    ScatterAllgather,
    /// Whoever has the whole chunk sends it to one who has nothing.
    Doubling,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Swarm,
        Self::Star,
        Self::Chain,
        Self::Tree,
        Self::DoubleTree,
        Self::Binomial,
        Self::ScatterAllgather,
        Self::Doubling,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Star => "star",
            Self::Chain => "chain",
            Self::Tree => "tree",
            Self::DoubleTree => "double-tree",
            Self::Binomial => "binomial",
            Self::ScatterAllgather => "scatter-allgather",
            Self::Doubling => "doubling",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no strategy has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no strategy; there are swarm, star, chain, tree, double-tree, binomial, scatter-allgather and doubling"
)]
pub struct UnknownStrategy(pub String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let named = Self::ALL.into_iter().find(|strategy| strategy.name() == text);
        named.ok_or_else(|| UnknownStrategy(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_a_name_that_is_understood() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        let error = "gossip".parse::<Strategy>().unwrap_err().to_string();
        assert!(Strategy::ALL.iter().all(|strategy| error.contains(strategy.name())), "{error}");
    }
}
