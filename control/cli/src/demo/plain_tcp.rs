//! What plain TCP takes to copy the same bytes from one process to many receivers.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::interrupt;
use crate::noise;
use crate::processes::ProcessError;

/// Bytes that one call sends or receives at most, so that a signal is noticed.
const STEP: usize = 1 << 20;

/// How the copies went.
pub struct Copies {
    /// From the common start until the last receiver had everything.
    pub time: Duration,
    /// The congestion control of the connections.
    pub congestion_control: String,
}

/// Copies `size` bytes to `receivers` threads over loopback, all at once: a connection and a sending thread for each,
/// no checksums; every receiver keeps its bytes in memory that was touched before.
pub fn copy(size: u64, receivers: u16, congestion_control: Option<&str>) -> Result<Copies, Failure> {
    let copied = run(size, receivers, congestion_control);
    // A signal makes the streams fail.
    interrupt::check()?;
    copied.map_err(ProcessError::machine("copy over plain TCP for comparison"))
}

fn run(size: u64, receivers: u16, congestion_control: Option<&str>) -> io::Result<Copies> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let data = noise::bytes(noise::fresh_seed(), size as u64).ok_or(io::ErrorKind::OutOfMemory)?;
    let pairs: Vec<(TcpStream, TcpStream, Vec<u8>)> = (0..receivers)
        .map(|_| {
            let (sender, receiver) = connection(congestion_control)?;
            Ok((sender, receiver, touched(size)?))
        })
        .collect::<io::Result<_>>()?;
    let name = pairs.first().map(|(sender, ..)| rustix::net::sockopt::tcp_congestion(sender)).transpose()?;
    let start = Barrier::new(2 * pairs.len());
    let time = thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut readers = Vec::new();
        for (sender, receiver, memory) in pairs {
            let (data, start) = (&data, &start);
            senders.push(scope.spawn(move || {
                start.wait();
                send(sender, data)
            }));
            readers.push(scope.spawn(move || {
                start.wait();
                let begin = Instant::now();
                receive(receiver, memory).map(|()| begin.elapsed())
            }));
        }
        let sent: Vec<io::Result<()>> = senders.into_iter().map(joined).collect();
        let times: Vec<io::Result<Duration>> = readers.into_iter().map(joined).collect();
        sent.into_iter().collect::<io::Result<()>>()?;
        Ok::<_, io::Error>(times.into_iter().collect::<io::Result<Vec<Duration>>>()?.into_iter().max())
    })?;
    Ok(Copies { time: time.unwrap_or_default(), congestion_control: name.unwrap_or_default() })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Memory whose pages are there already.
fn touched(size: usize) -> io::Result<Vec<u8>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(size).map_err(io::Error::other)?;
    memory.resize(size, 1);
    Ok(memory)
}

fn connection(congestion_control: Option<&str>) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    if let Some(name) = congestion_control {
        rustix::net::sockopt::set_tcp_congestion(&sender, name)?;
    }
    Ok((sender, receiver))
}

fn send(mut stream: TcpStream, data: &[u8]) -> io::Result<()> {
    for step in data.chunks(STEP) {
        interrupted()?;
        stream.write_all(step)?;
    }
    Ok(())
}

fn receive(mut stream: TcpStream, mut memory: Vec<u8>) -> io::Result<()> {
    for step in memory.chunks_mut(STEP) {
        interrupted()?;
        stream.read_exact(step)?;
    }
    Ok(())
}

fn interrupted() -> io::Result<()> {
    match interrupt::signal() {
        Some(_) => Err(io::Error::other("interrupted")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receiver_gets_everything() {
        let copies = run(3 * STEP as u64 + 17, 3, None).unwrap();
        assert!(!copies.congestion_control.is_empty());
        assert!(run(1, 1, Some("no-such-control")).is_err());
    }
}
