//! Which transfers come first where several want the same links and the same memory.
//!
//! Priorities are weights, not ranks: whatever else is under way, each priority that has something to send gets its share of
//! a source's pieces, so that nothing waits for ever, and what matters more is not held up by what is merely large.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// How much a transfer matters beside others.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize,
)]
pub enum Priority {
    /// What may take longer when somebody waits for something else: moves that nobody asked for.
    Low,
    /// What nobody said anything of.
    #[default]
    Normal,
    /// What somebody waits for.
    High,
    /// What others wait for in turn.
    Critical,
}

impl Priority {
    /// All of them, the lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// How many pieces of it are sent for each piece of the lowest priority, where both wait.
    pub fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 16,
            Self::Critical => 64,
        }
    }

    /// How many pieces a fetch of this priority asks for at once, of `all` that one alone would: fewer while a fetch of
    /// a higher one is under way on the same node, and at least one.
    pub fn pieces_at_once(self, highest: Self, all: usize) -> usize {
        match self < highest {
            true => (all * self.weight() as usize / highest.weight() as usize).max(1),
            false => all,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a priority is critical, high, normal or low")]
pub struct NoPriority;

impl FromStr for Priority {
    type Err = NoPriority;

    fn from_str(text: &str) -> Result<Self, NoPriority> {
        Self::ALL.into_iter().find(|priority| priority.name() == text).ok_or(NoPriority)
    }
}

/// What each priority has had of a source so far: start-time fair queueing (Goyal, Vin and Cheng, 1996) with a piece as
/// the unit.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// When the next piece of each priority begins, in units of a weighted clock.
    begins: [u64; Priority::ALL.len()],
    /// When the piece that was sent last began.
    clock: u64,
}

impl Shares {
    /// The priorities in the order in which their next pieces are due; of two that are due at once, the higher one first.
    pub(super) fn order(&self) -> [Priority; Priority::ALL.len()] {
        let mut order = Priority::ALL;
        order.sort_by_key(|&priority| (self.begins[priority as usize], std::cmp::Reverse(priority)));
        order
    }

    /// Something of a priority waits, and nothing did before: it is not repaid for the time in which it wanted nothing.
    pub(super) fn begin(&mut self, priority: Priority) {
        let begins = &mut self.begins[priority as usize];
        *begins = self.clock.max(*begins);
    }

    /// A piece of a priority is sent.
    pub(super) fn sent(&mut self, priority: Priority) {
        let begins = &mut self.begins[priority as usize];
        self.clock = *begins;
        *begins += u64::from(Priority::Critical.weight() / priority.weight());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        assert!(Priority::ALL.into_iter().all(|priority| priority.name().parse() == Ok(priority)));
        assert!("urgent".parse::<Priority>().is_err());
    }

    #[test]
    fn pieces_are_sent_by_weight() {
        let (mut shares, mut sent) = (Shares::default(), [0; 4]);
        for _ in 0..850 {
            let priority = shares.order()[0];
            shares.sent(priority);
            sent[priority as usize] += 1;
        }
        assert_eq!(sent, [10, 40, 160, 640]);
    }

    #[test]
    fn who_wanted_nothing_is_not_repaid() {
        let mut shares = Shares::default();
        (0..1000).for_each(|_| shares.sent(Priority::Normal));
        shares.begin(Priority::Low);
        shares.sent(Priority::Low);
        let until = (0..100).position(|_| {
            let next = shares.order().into_iter().find(|priority| *priority <= Priority::Normal);
            next.inspect(|priority| shares.sent(*priority)) == Some(Priority::Low)
        });
        assert_eq!(until, Some(4));
    }

    #[test]
    fn lower_priorities_keep_a_piece_on_its_way() {
        assert_eq!(Priority::Low.pieces_at_once(Priority::Critical, 4), 1);
        assert_eq!(Priority::Normal.pieces_at_once(Priority::High, 8), 2);
        assert_eq!(Priority::High.pieces_at_once(Priority::High, 4), 4);
    }
}
