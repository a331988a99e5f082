//! Star and chain, in the same network: what a swarm is compared with, and a check of the network by closed forms.

use crate::event::{Event, Queue};
use crate::network::Network;
use crate::scenario::Scenario;

/// The origin sends every piece to every receiver. Returns when the last has all, in nanoseconds.
pub fn star(scenario: &Scenario) -> u64 {
    let (mut queue, mut network) = build(scenario);
    for piece in 0..scenario.pieces {
        for node in 1..=scenario.receivers {
            network.send(&mut queue, 0, node, 0, piece);
        }
    }
    finish(scenario, &mut queue, &mut network, |_, _, _, _| {})
}

/// Each node sends a piece on when it has all of it, one at a time, the next when the last has arrived. Returns when
/// the last has all, in nanoseconds.
pub fn chain(scenario: &Scenario) -> u64 {
    let (mut queue, mut network) = build(scenario);
    let mut have = vec![0; scenario.receivers + 1];
    have[0] = scenario.pieces;
    network.send(&mut queue, 0, 1, 0, 0);
    finish(scenario, &mut queue, &mut network, |queue, network, to, piece| {
        have[to] = piece + 1;
        if have[to - 1] > have[to] {
            network.send(queue, to - 1, to, 0, have[to]);
        }
        if to < scenario.receivers && have[to + 1] + 1 == have[to] {
            network.send(queue, to, to + 1, 0, piece);
        }
    })
}

fn build(scenario: &Scenario) -> (Queue, Network) {
    let mut network = Network::new(scenario.latency_ns);
    (0..=scenario.receivers).for_each(|_| network.connect(scenario.piece_ns, scenario.piece_ns));
    (Queue::default(), network)
}

fn finish(
    scenario: &Scenario,
    queue: &mut Queue,
    network: &mut Network,
    mut arrived: impl FnMut(&mut Queue, &mut Network, usize, u32),
) -> u64 {
    let mut left = scenario.receivers as u64 * u64::from(scenario.pieces);
    while let Some(event) = queue.next_event() {
        match event {
            Event::UplinkFree(node) => {
                network.on_uplink_free(queue, node);
            }
            Event::SliceDone(stream) => network.on_slice_done(queue, stream),
            Event::Arrived(stream) => {
                let (to, piece) = (network.stream(stream).to, network.stream(stream).piece);
                left -= 1;
                if left == 0 {
                    break;
                }
                arrived(queue, network, to, piece);
            }
            _ => {}
        }
    }
    queue.now_ns()
}
