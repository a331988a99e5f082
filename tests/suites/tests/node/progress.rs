//! What a terminal shows while bytes move.

use std::path::Path;

use suites::{Node, Shoal, write_noise};

const SIZE: u64 = 64 << 20;

#[test]
fn a_terminal_shows_progress_with_rate_and_time_left() {
    let node = Node::start();
    let (source, target) = (node.folder().join("source"), node.folder().join("target"));
    write_noise(&source, 1, SIZE);
    assert_draws("put", || put(&node, &source));
    assert_draws("get", || get(&node, &target));
}

#[test]
fn nothing_is_drawn_without_a_terminal_or_when_it_shall_be_quiet() {
    let node = Node::start();
    let (source, target) = (node.folder().join("source"), node.folder().join("target"));
    write_noise(&source, 1, SIZE);
    for call in [put(&node, &source), get(&node, &target)] {
        assert_eq!(call.run().success().error(), "");
    }
    for call in [put(&node, &source), get(&node, &target)] {
        assert_eq!(call.arg("--quiet").terminal().run().success().error(), "");
    }
}

/// A call that is over soon may end before its bar is drawn, so that it is tried again.
#[track_caller]
fn assert_draws(verb: &str, call: impl Fn() -> Shoal) {
    suites::holds("a bar is drawn", || {
        let drawn = call().terminal().run().success().error();
        // Such as `put ███░░░ 12.00 MiB/64.00 MiB at 1.00 GiB/s, 1s left`.
        let bar = drawn.split(['\r', '\n']).find(|line| line.contains("/64.00 MiB at "));
        bar.is_some_and(|bar| bar.contains(verb) && bar.contains("B/s, ") && bar.contains("s left"))
    });
}

fn put(node: &Node, source: &Path) -> Shoal {
    Shoal::at(node).args(["put", "k", "--volatile", "--src"]).arg(source)
}

fn get(node: &Node, target: &Path) -> Shoal {
    Shoal::at(node).args(["get", "k", "--dest"]).arg(target)
}
