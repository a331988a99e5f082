//! Which node shall hold a chunk.
//!
//! A plan is data: who carries it out, and whether at all, is decided elsewhere, so that a dry run shows what
//! would happen. The same input gives the same plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::membership::{Member, State};

/// One copy of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The chunk.
    pub chunk: [u8; 32],
    /// Bytes of the chunk.
    pub size: u64,
    /// The node that has it.
    pub node: u64,
    /// Where it lies there.
    pub device: Device,
    /// Whether it must not be evicted.
    pub pinned: bool,
}

/// Where bytes live on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Memory.
    Dram,
    /// Files under the data directory.
    Nvme,
}

/// A copy to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The chunk.
    pub chunk: [u8; 32],
    /// Bytes of the chunk.
    pub size: u64,
    /// The node that gives it.
    pub from: u64,
    /// The node that gets it.
    pub to: u64,
    /// Where it goes there.
    pub device: Device,
    /// Whether it must not be evicted there.
    pub pinned: bool,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand<'a> {
    /// Bytes.
    pub size: u64,
    /// The device.
    pub device: Device,
    /// How many more copies.
    pub copies: usize,
    /// Nodes that have a copy: they get no other, and their racks come last.
    pub holders: &'a [u64],
}

/// Why there is no plan. Nothing of it may be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "chunk copies of {size} bytes wanted on {wanted} other nodes, but only {found} live nodes that are not draining \
     have room; add a node, raise --max-memory, or remove keys that are not needed"
)]
pub struct NoRoom {
    /// Bytes of one copy.
    pub size: u64,
    /// How many nodes were wanted.
    pub wanted: usize,
    /// How many there are.
    pub found: usize,
}

/// Where everything goes that only `draining` keeps: each chunk of which it has a copy that no live, undrained
/// node keeps as firmly. NVMe is firmer than pinned memory, and that than memory that may be evicted. Other
/// racks come first, then the most free space.
pub fn drain_moves(draining: u64, replicas: &[Replica], members: &[Member]) -> Result<Vec<Move>, NoRoom> {
    let mut room = Room::of(members, draining);
    let mut kept: BTreeMap<[u8; 32], Firmness> = BTreeMap::new();
    for replica in replicas.iter().filter(|replica| room.takes_part(replica.node)) {
        let firmest = kept.entry(replica.chunk).or_insert(Firmness::Evictable);
        *firmest = (*firmest).max(firmness(replica));
    }
    let mut leaving: BTreeMap<[u8; 32], &Replica> = BTreeMap::new();
    for replica in replicas.iter().filter(|replica| replica.node == draining) {
        let firmest = leaving.entry(replica.chunk).or_insert(replica);
        if firmness(replica) > firmness(firmest) {
            *firmest = replica;
        }
    }
    let mut leaving: Vec<&Replica> = leaving.into_values().collect();
    leaving.retain(|replica| kept.get(&replica.chunk).is_none_or(|kept| *kept < firmness(replica)));
    // The largest first: what is small still fits into what they leave.
    leaving.sort_by_key(|replica| (Reverse(replica.size), replica.chunk));
    let moved = |replica: &Replica| {
        let &Replica { chunk, size, device, pinned, .. } = replica;
        let to = room.take(size, device, &BTreeSet::new());
        let to = to.ok_or(NoRoom { size, wanted: 1, found: 0 })?;
        Ok(Move { chunk, size, from: draining, to, device, pinned })
    };
    leaving.into_iter().map(moved).collect()
}

/// Nodes for copies of a chunk: racks that have none first, then the most free space.
pub fn pick_nodes(demand: Demand<'_>, members: &[Member]) -> Result<Vec<u64>, NoRoom> {
    let mut taken: BTreeSet<u64> = demand.holders.iter().copied().collect();
    let mut room = Room::of(members, 0);
    for member in members.iter().filter(|member| taken.contains(&member.node)) {
        *room.copies.entry(member.rack.as_str()).or_default() += 1;
    }
    let mut picked = Vec::new();
    while picked.len() < demand.copies {
        let Some(node) = room.take(demand.size, demand.device, &taken) else {
            return Err(NoRoom { size: demand.size, wanted: demand.copies, found: picked.len() });
        };
        taken.insert(node);
        let rack = members.iter().find(|member| member.node == node).map(|member| member.rack.as_str());
        *room.copies.entry(rack.unwrap_or_default()).or_default() += 1;
        picked.push(node);
    }
    Ok(picked)
}

/// How surely a node keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Firmness {
    Evictable,
    Pinned,
    Durable,
}

fn firmness(replica: &Replica) -> Firmness {
    match (replica.device, replica.pinned) {
        (Device::Nvme, _) => Firmness::Durable,
        (Device::Dram, true) => Firmness::Pinned,
        (Device::Dram, false) => Firmness::Evictable,
    }
}

/// What the nodes that may be given chunks have free, while a plan is made.
struct Room<'a> {
    places: BTreeMap<u64, Place<'a>>,
    /// How many copies each rack is counted to hold. A rack without a name is one rack.
    copies: BTreeMap<&'a str, usize>,
}

struct Place<'a> {
    rack: &'a str,
    dram_free: u64,
    nvme_free: u64,
}

impl<'a> Room<'a> {
    /// The room on all live, undrained members but `leaver`, whose rack counts as the one to avoid.
    fn of(members: &'a [Member], leaver: u64) -> Self {
        let mut room = Self { places: BTreeMap::new(), copies: BTreeMap::new() };
        for member in members {
            if member.node == leaver {
                room.copies.insert(&member.rack, 1);
            } else if member.state == State::Alive {
                let dram_free = member.figures.memory_limit.saturating_sub(member.figures.memory_used);
                // Nodes do not tell the size of their device: the one that holds least counts as the freest,
                // and one that is full after all refuses.
                let nvme_free = u64::MAX - member.figures.nvme_used;
                room.places.insert(member.node, Place { rack: &member.rack, dram_free, nvme_free });
            }
        }
        room
    }

    fn takes_part(&self, node: u64) -> bool {
        self.places.contains_key(&node)
    }

    /// Finds the best node outside `except` and takes the space there.
    fn take(&mut self, size: u64, device: Device, except: &BTreeSet<u64>) -> Option<u64> {
        let free = |place: &Place<'_>| match device {
            Device::Dram => place.dram_free,
            Device::Nvme => place.nvme_free,
        };
        let fits = self.places.iter().filter(|(node, place)| !except.contains(node) && free(place) >= size);
        let copies = |place: &Place<'_>| self.copies.get(place.rack).copied().unwrap_or_default();
        let best = fits.max_by_key(|(node, place)| (Reverse(copies(place)), free(place), Reverse(**node)));
        let node = *best?.0;
        let place = self.places.get_mut(&node)?;
        match device {
            Device::Dram => place.dram_free -= size,
            Device::Nvme => place.nvme_free -= size,
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::membership::Figures;

    fn member(node: u64, rack: &str, state: State, free: u64) -> Member {
        Member {
            node,
            name: format!("n{node}"),
            address: "a:1".into(),
            rack: rack.into(),
            shards: 1,
            incarnation: 1,
            state,
            head: false,
            figures: Figures { memory_limit: 1_000, memory_used: 1_000 - free, nvme_used: 1_000 - free },
        }
    }

    fn replica(chunk: u8, node: u64, device: Device, pinned: bool) -> Replica {
        Replica { chunk: [chunk; 32], size: 100, node, device, pinned }
    }

    fn to(moves: &[Move]) -> Vec<(u8, u64)> {
        moves.iter().map(|one| (one.chunk[0], one.to)).collect()
    }

    #[test]
    fn only_what_nobody_else_keeps_as_firmly_moves() {
        let members = [
            member(1, "r", State::Draining, 500),
            member(2, "r", State::Alive, 500),
            member(3, "r", State::Dead, 900),
            member(4, "r", State::Draining, 900),
        ];
        let replicas = [
            replica(1, 1, Device::Nvme, false),
            replica(1, 2, Device::Nvme, false),
            replica(2, 1, Device::Nvme, false),
            replica(2, 2, Device::Dram, true),
            replica(3, 1, Device::Dram, true),
            replica(3, 3, Device::Nvme, true),
            replica(4, 1, Device::Dram, false),
            replica(4, 2, Device::Dram, false),
            replica(5, 1, Device::Dram, false),
            replica(5, 4, Device::Dram, false),
            replica(6, 2, Device::Nvme, false),
        ];
        let moves = drain_moves(1, &replicas, &members).unwrap();
        assert_eq!(to(&moves), [(2, 2), (3, 2), (5, 2)]);
        // Node 2 has it in memory; what it gets is a copy as firm as the one that leaves.
        assert_eq!(moves[0].device, Device::Nvme);
    }

    #[test]
    fn other_racks_then_free_space_decide_and_space_is_used_up() {
        let members = [
            member(1, "r", State::Draining, 0),
            member(2, "r", State::Alive, 900),
            member(3, "s", State::Alive, 150),
            member(4, "t", State::Alive, 250),
        ];
        let replicas: Vec<Replica> = (1..=4).map(|chunk| replica(chunk, 1, Device::Dram, true)).collect();
        assert_eq!(to(&drain_moves(1, &replicas, &members).unwrap()), [(1, 4), (2, 3), (3, 4), (4, 2)]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let members = [member(1, "", State::Draining, 0), member(2, "", State::Alive, 99)];
        let moves = drain_moves(1, &[replica(1, 1, Device::Dram, false)], &members);
        assert_eq!(moves, Err(NoRoom { size: 100, wanted: 1, found: 0 }));
        assert_eq!(drain_moves(9, &[replica(1, 1, Device::Dram, false)], &[]), Ok(vec![]));
    }

    #[test]
    fn copies_spread_over_racks() {
        let members: Vec<Member> = [(1, "r"), (2, "r"), (3, "s"), (4, "s"), (5, "t")]
            .map(|(n, r)| member(n, r, State::Alive, n * 100))
            .into();
        let demand = Demand { size: 100, device: Device::Dram, copies: 3, holders: &[5] };
        assert_eq!(pick_nodes(demand, &members), Ok(vec![4, 2, 3]));
        let demand = Demand { copies: 5, ..demand };
        assert_eq!(pick_nodes(demand, &members), Err(NoRoom { size: 100, wanted: 5, found: 4 }));
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let one = (0..3_u8, 0..4_u8, 0..=1_000_u64);
        prop::collection::vec(one, 1..8).prop_map(|all| {
            let state = |at| [State::Alive, State::Alive, State::Draining, State::Dead][usize::from(at)];
            let numbered = (1..).zip(all);
            numbered
                .map(|(node, (rack, at, free))| member(node, &rack.to_string(), state(at), free))
                .collect()
        })
    }

    fn replicas() -> impl Strategy<Value = Vec<Replica>> {
        let one = (0..6_u8, 1..8_u64, any::<bool>(), any::<bool>());
        let device = |nvme| if nvme { Device::Nvme } else { Device::Dram };
        prop::collection::vec(
            one.prop_map(move |(chunk, node, nvme, pinned)| replica(chunk, node, device(nvme), pinned)),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn after_a_drain_every_chunk_is_kept_elsewhere(members in members(), replicas in replicas()) {
            let Ok(moves) = drain_moves(1, &replicas, &members) else { return Ok(()) };
            let alive = |node| members.iter().any(|m| m.node == node && m.state == State::Alive && node != 1);
            let mut filled: BTreeMap<u64, u64> = BTreeMap::new();
            for one in &moves {
                prop_assert!(alive(one.to));
                *filled.entry(one.to).or_default() += if one.device == Device::Dram { one.size } else { 0 };
            }
            for (node, bytes) in filled {
                let figures = members.iter().find(|m| m.node == node).unwrap().figures;
                prop_assert!(bytes <= figures.memory_limit - figures.memory_used);
            }
            for gone in replicas.iter().filter(|one| one.node == 1) {
                let elsewhere = |one: &&Replica| one.chunk == gone.chunk && alive(one.node);
                let kept = replicas.iter().filter(elsewhere).any(|one| firmness(one) >= firmness(gone));
                let moved = moves.iter().filter(|one| one.chunk == gone.chunk).count();
                prop_assert!(kept || moved == 1);
            }
            prop_assert_eq!(&moves, &drain_moves(1, &replicas, &members).unwrap());
        }
    }
}
