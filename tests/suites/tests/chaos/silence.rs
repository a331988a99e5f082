//! A node that is cut off for long.

use client::ChunkId;
use suites::network::Reach;
use suites::{Outcome, Shoal, assert_same_tree, shoal, until, write_noise};
use tempfile::TempDir;

use crate::fleet::Fleet;
use crate::round::counter;

/// Bytes of a chunk that takes some seconds to come.
const SIZE: u64 = 96 << 20;
/// Chunks that may be there before the receiver is cut off.
const ATTEMPTS: u64 = 10;

#[test]
fn a_receiver_that_is_cut_off_for_good_says_so_and_is_back_when_it_is_not() {
    let fleet = Fleet::of(3);
    if !fleet.has_links() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cut_off = (0..ATTEMPTS).find_map(|seed| {
        let outcome = get_and_cut(&fleet, &folder, seed);
        (outcome.code != Some(0)).then_some((seed, outcome))
    });
    let (seed, outcome) = cut_off.expect("one of the chunks is caught under way");
    outcome.exits(4).tells("no live node has the others").tells("hint:");
    fleet.places[2].host.set_reach(Reach::All).unwrap();
    fleet.wait_until_all_know(3);
    let copy = folder.path().join("again");
    shoal(fleet.node(2), ["get", &key(seed), "--dest", copy.to_str().unwrap()]).success();
    assert_same_tree(&folder.path().join("original"), &copy);
}

/// Puts a chunk on one node and cuts the other off as soon as pieces come there. Gives how the get ends.
fn get_and_cut(fleet: &Fleet, folder: &TempDir, seed: u64) -> Outcome {
    let (source, receiver, host) = (fleet.node(1), fleet.node(2), &fleet.places[2].host);
    host.set_reach(Reach::All).unwrap();
    fleet.wait_until_all_know(3);
    let original = folder.path().join("original");
    let chunk = ChunkId(write_noise(&original, seed, SIZE));
    Shoal::at(source).args(["put", &key(seed), "--src"]).arg(&original).run().success();
    let watcher = receiver.client();
    let before = counter(&watcher, "bytes_received");
    let copy = folder.path().join(chunk.to_string());
    let get = Shoal::at(receiver).args(["get", &key(seed), "--dest"]).arg(copy).start();
    until("pieces come", || (counter(&watcher, "bytes_received") > before).then_some(()));
    host.set_reach(Reach::Nobody).unwrap();
    get.wait()
}

fn key(seed: u64) -> String {
    format!("silence/{seed}")
}
