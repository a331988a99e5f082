//! One fetch of the same chunks on many nodes at once; the demonstration and the benchmarks measure it.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use flow::wire::session::{ChunkReference, Device};

use crate::failure::Failure;

/// A node that receives.
pub struct Receiver {
    /// Its name.
    pub name: String,
    /// The connection to it.
    pub client: Arc<Client>,
}

/// How it went on one node.
#[derive(Debug, Clone, Default)]
pub struct Reception {
    /// Name of the node.
    pub node: String,
    /// From the common start until the last piece was verified.
    pub time: Duration,
    /// Pieces from nodes that held everything when the fetch began.
    pub pieces_from_origin: u64,
    /// Pieces from nodes that were receivers themselves.
    pub pieces_from_peers: u64,
    /// Pieces that failed their checksum and were fetched again.
    pub pieces_corrupt: u64,
    /// Pieces that arrived twice.
    pub pieces_duplicate: u64,
    /// Bytes verified at points in time since the common start.
    pub progress: Vec<(Duration, u64)>,
}

/// Fetches the chunks into the memory of all receivers at once; gives the time from the common start until the last
/// of them had everything, and how it went on each.
pub fn fetch(
    receivers: &[Receiver],
    chunks: &[ChunkReference],
) -> Result<(Duration, Vec<Reception>), Failure> {
    let start = Barrier::new(receivers.len());
    let receptions: Result<Vec<Reception>, Failure> = each(receivers, |receiver| {
        start.wait();
        receive(receiver, chunks)
    });
    let receptions = receptions?;
    let time = receptions.iter().map(|reception| reception.time).max().unwrap_or_default();
    Ok((time, receptions))
}

/// Reads every chunk on every receiver and compares its digest with its name.
pub fn verify(receivers: &[Receiver], chunks: &[ChunkReference]) -> Result<(), Failure> {
    each(receivers, |Receiver { name, client }| {
        chunks.iter().try_for_each(|&ChunkReference { id, .. }| match client.verify(id)? {
            digest if digest == id => Ok(()),
            digest => Err(Failure::Corrupt { chunk: id, node: name.clone(), digest }),
        })
    })?;
    Ok(())
}

fn receive(receiver: &Receiver, chunks: &[ChunkReference]) -> Result<Reception, Failure> {
    let begin = Instant::now();
    let mut reception = Reception { node: receiver.name.clone(), ..Reception::default() };
    let mut bytes = 0;
    for chunk in chunks {
        let at = begin.elapsed();
        let fetched = receiver.client.fetch(*chunk, Device::Dram)?;
        reception.pieces_from_origin += u64::from(fetched.pieces_from_origin);
        reception.pieces_from_peers += u64::from(fetched.pieces_from_peers);
        reception.pieces_corrupt += u64::from(fetched.pieces_corrupt);
        reception.pieces_duplicate += u64::from(fetched.pieces_duplicate);
        let point = |&(elapsed_us, pieces): &(u64, u32)| {
            let verified = u64::from(pieces) * u64::from(chunk.geometry.piece_size());
            (at + Duration::from_micros(elapsed_us), bytes + verified.min(chunk.geometry.size()))
        };
        reception.progress.extend(fetched.progress.iter().map(point));
        bytes += chunk.geometry.size();
        reception.progress.push((begin.elapsed(), bytes));
    }
    reception.time = begin.elapsed();
    Ok(reception)
}

/// Does the same for every receiver at once; the first failure counts, but all are waited for.
fn each<T: Send>(
    receivers: &[Receiver],
    task: impl Fn(&Receiver) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let task = &task;
    thread::scope(|scope| {
        let threads: Vec<_> = receivers.iter().map(|receiver| scope.spawn(move || task(receiver))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<T, Failure>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // Joined one by one first: `collect` would stop at the first failure.
        let results: Vec<Result<T, Failure>> = threads.into_iter().map(join).collect();
        results.into_iter().collect()
    })
}
