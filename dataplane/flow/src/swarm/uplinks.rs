//! What the links between racks carry.

use std::str::FromStr;

/// What the links between racks carry, as the operator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uplinks {
    /// About as much as the nodes of a rack send.
    #[default]
    Full,
    /// Much less: a piece shall cross into a rack once, as far as that can be.
    Scarce,
}

impl Uplinks {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Full, Self::Scarce];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Scarce => "scarce",
        }
    }
}

/// A word that says nothing of uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("uplinks are full or scarce")]
pub struct NoUplinks;

impl FromStr for Uplinks {
    type Err = NoUplinks;

    fn from_str(text: &str) -> Result<Self, NoUplinks> {
        Self::ALL.into_iter().find(|uplinks| uplinks.name() == text).ok_or(NoUplinks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_what_they_name() {
        for uplinks in Uplinks::ALL {
            assert_eq!(uplinks.name().parse(), Ok(uplinks));
        }
        assert_eq!("4:1".parse::<Uplinks>(), Err(NoUplinks));
    }
}
