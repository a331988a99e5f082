//! Every target over its seeds and a bounded number of their mutations, the same in every run.

use std::fmt::Write;

use hostile::{TARGETS, seeds};

const MUTATIONS_PER_TARGET: usize = 50_000;

#[test]
fn every_target_has_seeds() {
    for (name, _) in TARGETS {
        assert!(!seeds::of(name).is_empty(), "{name}");
    }
}

#[test]
fn seeds_are_whole() {
    for bytes in seeds::of("footer") {
        let file_length = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        engine::Footer::decode(&bytes[8..], file_length).unwrap();
    }
    for manifest in seeds::manifests() {
        assert_eq!(plan::manifest::Manifest::decode(&manifest.encode()), Ok(manifest));
    }
}

#[test]
fn targets_hold_for_mutated_seeds() {
    for (name, target) in TARGETS {
        let seeds = seeds::of(name);
        let mut random = fastrand::Rng::with_seed(1);
        for seed in &seeds {
            run(name, target, seed);
        }
        for _ in 0..MUTATIONS_PER_TARGET {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(1..5) {
                mutate(&mut bytes, &seeds, &mut random);
            }
            run(name, target, &bytes);
        }
    }
}

#[test]
fn targets_hold_for_noise() {
    let mut random = fastrand::Rng::with_seed(2);
    for (name, target) in TARGETS {
        for _ in 0..2_000 {
            let length = random.usize(..200);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            run(name, target, &bytes);
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut fastrand::Rng) {
    const EDGES: [u64; 6] = [0, 1, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];
    let at = random.usize(..bytes.len().max(1));
    match random.u8(..6) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.u8(..8),
        1 if !bytes.is_empty() => bytes[at] = random.u8(..),
        2 => bytes.truncate(at),
        3 => bytes.insert(at.min(bytes.len()), random.u8(..)),
        4 => {
            let edge = EDGES[random.usize(..EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.usize(..4)];
            bytes.iter_mut().skip(at).zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
        }
        _ => {
            let other = &seeds[random.usize(..seeds.len())];
            let from = random.usize(..other.len().max(1)).min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

fn run(name: &'static str, target: fn(&[u8]), bytes: &[u8]) {
    let input = Input { name, bytes };
    target(bytes);
    drop(input);
}

/// Shows the input of the target that panics.
struct Input<'a> {
    name: &'static str,
    bytes: &'a [u8],
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            self.bytes.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
            eprintln!("target {} panicked on {text}", self.name);
        }
    }
}
