//! What goes wrong in the worlds of the tables.

use sim::Faults;

/// A world of the tables.
#[derive(Debug, Clone)]
pub struct World {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name in a table.
    pub title: &'static str,
    /// What goes wrong in it.
    pub faults: Faults,
}

impl World {
    /// All of them.
    pub fn all() -> [Self; 5] {
        let plain = Faults::default();
        let of = |name, title, faults| Self { name, title, faults };
        [
            of("equal", "all equal", plain.clone()),
            of("slow", "5 % four times slower", Faults { slow: 0.05, ..plain.clone() }),
            of("dying", "1 % die", Faults { dying: 0.01, ..plain.clone() }),
            of("late", "30 % join late", Faults { late: 0.3, ..plain.clone() }),
            of("all", "all of these", Faults { slow: 0.05, dying: 0.01, late: 0.3, ..plain }),
        ]
    }

    /// The world of a name.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::all().into_iter().find(|world| world.name == name);
        found.ok_or_else(|| crate::order::unknown("a world", name))
    }

    /// Whether nothing in it is left to chance but what the strategy itself does.
    pub fn is_certain(&self) -> bool {
        self.faults == Faults::default()
    }
}
