//! What a comparison is.

use std::time::Duration;

use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;

/// One thing that Shoal does, beside others that do the same.
pub trait Scenario {
    /// What it is called: one word, or words with `-` between them.
    fn name(&self) -> String;

    /// What is compared, in a sentence.
    fn compares(&self) -> &'static str;

    /// What Shoal should reach.
    fn goal(&self) -> &'static str;

    /// What its rates count.
    fn unit(&self) -> Unit {
        Unit::Byte
    }

    /// How much of that one run does, over all receivers.
    fn amount(&self, conditions: &Conditions) -> u64;

    /// Bytes of memory that all contenders take together.
    fn memory_bytes(&self, conditions: &Conditions) -> u64;

    /// Whether it lays links of its own, which takes some power over the system.
    fn lays_links(&self) -> bool {
        false
    }

    /// Starts all that runs need. What was started ends, and what was written is gone, when the contenders are dropped.
    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure>;
}

/// One that takes part in a scenario. The runner calls the three steps in this order, once a round.
pub trait Contender {
    /// What it is called.
    fn name(&self) -> String;

    /// Makes everything ready for one run.
    fn ready(&mut self, round: u32) -> Result<(), Failure>;

    /// Runs once, and measures that.
    fn run(&mut self) -> Result<Cost, Failure>;

    /// Checks that the right bytes arrived, as far as the contender keeps any, and removes them.
    fn verify(&mut self) -> Result<(), Failure>;

    /// What else there is to say of its runs, such as how long single operations took. The run before those that count is
    /// among them.
    fn remark(&self) -> Option<String> {
        None
    }
}

impl Contender for Box<dyn Contender> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        (**self).ready(round)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        (**self).run()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        (**self).verify()
    }

    fn remark(&self) -> Option<String> {
        (**self).remark()
    }
}

/// What rates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in GB.
    Byte,
    /// Operations, shown in thousands.
    Operation,
}

impl Unit {
    /// How many of it are shown as one.
    pub fn scale(self) -> f64 {
        match self {
            Unit::Byte => 1e9,
            Unit::Operation => 1e3,
        }
    }

    /// What so many are called.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Byte => "GB",
            Unit::Operation => "1000",
        }
    }
}

/// All that take part in a scenario.
pub struct Contenders {
    /// Shoal.
    pub ours: Box<dyn Contender>,
    /// The others.
    pub peers: Vec<Box<dyn Contender>>,
    /// Names of those that cannot take part, and why.
    pub missing: Vec<(String, Failure)>,
    /// The least time in which links let anybody do it, where there are links.
    pub ideal: Option<Duration>,
}

impl Contenders {
    /// Shoal alone.
    pub fn new(ours: impl Contender + 'static) -> Self {
        Self { ours: Box::new(ours), peers: Vec::new(), missing: Vec::new(), ideal: None }
    }

    /// Adds a peer.
    pub fn with(mut self, peer: impl Contender + 'static) -> Self {
        self.peers.push(Box::new(peer));
        self
    }

    /// Says what the links allow.
    pub fn with_ideal(mut self, ideal: Option<Duration>) -> Self {
        self.ideal = ideal;
        self
    }

    /// Adds a peer that is perhaps not installed.
    pub fn with_if_there<P: Contender + 'static>(
        self,
        name: &str,
        peer: Result<P, Failure>,
    ) -> Result<Self, Failure> {
        match peer {
            Ok(peer) => Ok(self.with(peer)),
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            Err(failure) => {
                let mut contenders = self;
                contenders.missing.push((name.to_owned(), failure));
                Ok(contenders)
            }
        }
    }
}
