//! What happens in a round. It follows from the seed, and from which nodes track the chunk.

use std::fmt;

use suites::network::Reach;

/// Nodes of a fleet. The first is the head.
pub const NODES: usize = 16;
/// The head.
pub const HEAD: usize = 0;
/// Sizes of chunks, in bytes: the smallest and the largest.
const SIZES: (u64, u64) = (16 << 20, 96 << 20);
/// Time within which everything begins, in milliseconds: while the transfers of a round are under way.
const SPAN_MS: u64 = 3500;
/// Longest that most of it lasts, in milliseconds. It is longer than a node may be silent before it counts as dead.
const OUTAGE_MS_MAX: u64 = 6000;
/// Longest that anything lasts, in milliseconds: longer than nodes keep connections over which nothing comes.
const LONG_OUTAGE_MS_MAX: u64 = 14_000;
/// One outage in so many may be a long one.
const LONG_ONE_IN: u8 = 8;
/// Most events of a round that hurt, a rack counting as one.
const OUTAGES_MAX: usize = 4;

/// One thing that is done to or by one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A node that was not there before starts and joins.
    Join,
    /// It begins to get the key.
    Get,
    /// SIGKILL.
    Kill,
    /// The node that was killed starts again.
    Restart,
    /// SIGSTOP.
    Freeze,
    /// SIGCONT.
    Thaw,
    /// Its link changes.
    Reach(Reach),
}

/// What one node does and suffers, in order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Milliseconds since the begin of the round, and what happens then.
    pub steps: Vec<(u64, Step)>,
}

impl Part {
    /// Whether it is killed.
    pub fn dies(&self) -> bool {
        self.has(|step| *step == Step::Kill)
    }

    /// Whether it is killed, frozen or cut off.
    pub fn suffers(&self) -> bool {
        self.has(|step| matches!(step, Step::Kill | Step::Freeze | Step::Reach(_)))
    }

    /// Whether it joins in the middle.
    pub fn joins(&self) -> bool {
        self.has(|step| *step == Step::Join)
    }

    fn has(&self, is_it: impl Fn(&Step) -> bool) -> bool {
        self.steps.iter().any(|(_, step)| is_it(step))
    }

    fn push(&mut self, at_ms: u64, step: Step) {
        self.steps.push((at_ms, step));
        // What begins at the same time stays in the order in which it was said.
        self.steps.sort_by_key(|(at_ms, _)| *at_ms);
    }
}

/// Who has the chunk before anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// Bytes of the chunk.
    pub size: u64,
    /// Where it is put.
    pub source: usize,
    /// Where it is copied to.
    pub second: usize,
}

/// What happens in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What all of it follows from.
    pub seed: u64,
    /// Who has the chunk first.
    pub cast: Cast,
    /// What each node does.
    pub parts: Vec<Part>,
}

impl Cast {
    /// Follows from the seed alone.
    pub fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let size = rng.u64(SIZES.0..=SIZES.1);
        let source = rng.usize(1..NODES);
        let second = (source + rng.usize(0..NODES - 2)) % (NODES - 1) + 1;
        Self { size, source, second }
    }
}

/// What can be done to nodes.
#[derive(Clone, Copy)]
enum Harm {
    Kill,
    Freeze,
    Cut,
    Rack,
}

const HARMS: [Harm; 6] = [Harm::Kill, Harm::Kill, Harm::Freeze, Harm::Cut, Harm::Cut, Harm::Rack];

impl Plan {
    /// The plan of a seed. Cuts need links of our own.
    pub fn of(seed: u64, trackers: &[usize], has_links: bool) -> Self {
        let cast = Cast::of(seed);
        let mut making = Making {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            has_links,
            parts: vec![Part::default(); NODES],
            spared: vec![false; NODES],
        };
        making.begin(cast);
        making.harm(cast, trackers);
        Self { seed, cast, parts: making.parts }
    }

    /// Whether gets may fail on a node that nothing happens to, because their key is not to be had.
    pub fn head_suffers(&self) -> bool {
        self.parts[HEAD].suffers()
    }
}

struct Making {
    rng: fastrand::Rng,
    has_links: bool,
    parts: Vec<Part>,
    /// Nodes to which nothing more may happen.
    spared: Vec<bool>,
}

impl Making {
    /// Says when each node begins to get the chunk.
    fn begin(&mut self, cast: Cast) {
        // One of the first two holders stays, or there would be rounds in which nobody can have the chunk.
        let stays = if self.rng.bool() { cast.source } else { cast.second };
        self.spared[stays] = true;
        let receives = |node: &usize| ![cast.source, cast.second].contains(node);
        for _ in 0..self.rng.usize(0..=2) {
            let node = self.rng.usize(1..NODES);
            if receives(&node) && !self.spared[node] {
                let at_ms = self.rng.u64(100..SPAN_MS);
                self.parts[node].push(at_ms, Step::Join);
                self.parts[node].push(at_ms, Step::Get);
                self.spared[node] = true;
            }
        }
        for node in (0..NODES).filter(receives) {
            if !self.parts[node].joins() {
                let at_ms = if self.rng.bool() { 0 } else { self.rng.u64(0..SPAN_MS) };
                self.parts[node].push(at_ms, Step::Get);
            }
        }
    }

    /// Says what happens to whom.
    fn harm(&mut self, cast: Cast, trackers: &[usize]) {
        for _ in 0..self.rng.usize(1..=OUTAGES_MAX) {
            let harm = self.rng.choice(HARMS).unwrap_or(Harm::Kill);
            // Those on whom most depends are hit more often than their share.
            let node = match self.rng.u8(0..6) {
                0 => HEAD,
                1 => cast.source,
                2 => trackers.first().copied().unwrap_or(HEAD),
                _ => self.rng.usize(0..NODES),
            };
            self.harm_node(harm, node);
        }
    }

    fn harm_node(&mut self, harm: Harm, node: usize) {
        let begin_ms = self.rng.u64(50..SPAN_MS);
        let is_long = self.rng.u8(0..LONG_ONE_IN) == 0;
        let end_ms = begin_ms + self.rng.u64(200..=if is_long { LONG_OUTAGE_MS_MAX } else { OUTAGE_MS_MAX });
        match harm {
            Harm::Kill => self.kill(node, begin_ms, end_ms),
            Harm::Freeze => self.between(node, [(begin_ms, Step::Freeze), (end_ms, Step::Thaw)]),
            Harm::Cut => {
                let reach = self.rng.choice([Reach::Nobody, Reach::Hears, Reach::Speaks]);
                self.cut(node, reach.unwrap_or(Reach::Nobody), begin_ms, end_ms);
            }
            Harm::Rack => {
                let reach = if self.rng.bool() { Reach::Nobody } else { Reach::Island };
                let size = self.rng.usize(3..=5);
                (0..size).for_each(|at| self.cut((node + at) % NODES, reach, begin_ms, end_ms));
            }
        }
    }

    fn kill(&mut self, node: usize, begin_ms: u64, end_ms: u64) {
        // Without a head there is no way to end a round; others may stay away until its end.
        if node == HEAD || self.rng.bool() {
            self.between(node, [(begin_ms, Step::Kill), (end_ms, Step::Restart)]);
            if self.parts[node].dies() {
                self.parts[node].push(end_ms, Step::Get);
            }
        } else {
            self.between(node, [(begin_ms, Step::Kill)]);
        }
    }

    fn cut(&mut self, node: usize, reach: Reach, begin_ms: u64, end_ms: u64) {
        if self.has_links {
            self.between(node, [(begin_ms, Step::Reach(reach)), (end_ms, Step::Reach(Reach::All))]);
        }
    }

    /// Does this to a node, unless that has had enough.
    fn between<const COUNT: usize>(&mut self, node: usize, steps: [(u64, Step); COUNT]) {
        if std::mem::replace(&mut self.spared[node], true) {
            return;
        }
        // A node that is away begins nothing.
        let (begin_ms, is_gone) = (steps[0].0, steps[0].1 == Step::Kill);
        self.parts[node].steps.retain(|(at_ms, _)| !is_gone || *at_ms < begin_ms);
        steps.into_iter().for_each(|(at_ms, step)| self.parts[node].push(at_ms, step));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cast { size, source, second } = self.cast;
        writeln!(
            f,
            "seed {} (SHOAL_CHAOS_SEED={} repeats it): {size} bytes, put at {source}, copied to {second}",
            self.seed, self.seed
        )?;
        let mut all: Vec<_> = self
            .parts
            .iter()
            .enumerate()
            .collect::<Vec<_>>()
            .iter()
            .flat_map(|(node, part)| part.steps.iter().map(move |(at_ms, step)| (*at_ms, *node, *step)))
            .collect();
        all.sort_by_key(|(at_ms, node, _)| (*at_ms, *node));
        all.into_iter().try_for_each(|(at_ms, node, step)| writeln!(f, "{at_ms:6} ms  node {node}: {step:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> impl Iterator<Item = Plan> {
        (0..2000).map(|seed| Plan::of(seed, &[seed as usize % NODES, 3], true))
    }

    #[test]
    fn a_plan_follows_from_its_seed() {
        assert_eq!(Plan::of(7, &[1, 2], true), Plan::of(7, &[1, 2], true));
        assert_ne!(Plan::of(7, &[1, 2], true), Plan::of(8, &[1, 2], true));
        assert!(Plan::of(7, &[1, 2], true).to_string().contains("SHOAL_CHAOS_SEED=7 "));
    }

    #[test]
    fn somebody_keeps_the_chunk_and_everybody_else_gets_it() {
        for plan in plans() {
            let Cast { size, source, second } = plan.cast;
            assert!((SIZES.0..=SIZES.1).contains(&size));
            assert!(source != second && ![source, second].contains(&HEAD), "{plan}");
            assert!(!plan.parts[source].suffers() || !plan.parts[second].suffers(), "{plan}");
            for (node, part) in plan.parts.iter().enumerate() {
                let gets = part.has(|step| *step == Step::Get);
                assert!(gets || part.dies() || [source, second].contains(&node), "{plan}");
            }
        }
    }

    #[test]
    fn what_begins_ends() {
        for plan in plans() {
            for (node, part) in plan.parts.iter().enumerate() {
                assert!(part.steps.is_sorted_by_key(|(at_ms, _)| *at_ms), "{plan}");
                let last = |is_one: fn(&Step) -> bool| part.steps.iter().map(|(_, step)| *step).rfind(is_one);
                let frozen = last(|step| matches!(step, Step::Freeze | Step::Thaw));
                assert_ne!(frozen, Some(Step::Freeze), "{plan}");
                let reach = last(|step| matches!(step, Step::Reach(_)));
                assert!(matches!(reach, None | Some(Step::Reach(Reach::All))), "{plan}");
                let ended = last(|step| matches!(step, Step::Kill | Step::Restart));
                assert!(node != HEAD || ended != Some(Step::Kill), "{plan}");
                assert!(!part.joins() || !part.suffers() && part.steps[0].1 == Step::Join, "{plan}");
            }
        }
    }

    #[test]
    fn many_seeds_have_some_of_everything() {
        let all: Vec<Plan> = plans().collect();
        let count = |is_one: &dyn Fn(&Plan) -> bool| all.iter().filter(|plan| is_one(plan)).count();
        let has = |step: Step| count(&|plan| plan.parts.iter().any(|part| part.has(|other| *other == step)));
        for step in [Step::Join, Step::Kill, Step::Restart, Step::Freeze] {
            assert!(has(step) > 200, "{step:?}");
        }
        for reach in [Reach::Nobody, Reach::Island, Reach::Hears, Reach::Speaks] {
            assert!(has(Step::Reach(reach)) > 100, "{reach:?}");
        }
        assert!(count(&Plan::head_suffers) > 200);
        assert!(count(&|plan| plan.parts[plan.cast.source].suffers()) > 200);
    }

    #[test]
    fn without_links_nothing_is_cut() {
        let cuts = |part: &Part| part.has(|step| matches!(step, Step::Reach(_)));
        assert!((0..500).all(|seed| !Plan::of(seed, &[1, 2], false).parts.iter().any(cuts)));
    }
}
