//! What holds where there are links.

use std::thread;
use std::time::Duration;

use suites::network::Host;

use crate::cost::Cost;
use crate::failure::Failure;
use crate::payload::Payload;
use crate::peers::copies::{Copies, Keeping};
use crate::scenario::Contender;

/// How long the payload takes over one link by itself, in both directions at once: what no broadcast among the hosts
/// can beat.
pub fn ideal(
    hosts: &[Host],
    payload: &Payload,
    congestion_control: Option<&str>,
) -> Result<Duration, Failure> {
    let (there, back) = ([hosts[0].clone(), hosts[1].clone()], [hosts[1].clone(), hosts[0].clone()]);
    let start =
        |way: &[Host]| Copies::start("one copy", way, payload, Keeping::Everything, congestion_control);
    let (mut there, mut back) = (start(&there)?, start(&back)?);
    thread::scope(|scope| {
        let there = scope.spawn(|| there.run());
        let back = back.run()?;
        let there = there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(there.wall.max(back.wall))
    })
}

/// A contender whose bytes must come to each receiver by its link, where it has one.
pub struct Linked<C> {
    contender: C,
    receivers: Vec<Host>,
    bytes: u64,
}

impl<C> Linked<C> {
    /// The first of the hosts has the bytes, and the others receive them.
    pub fn new(contender: C, hosts: &[Host], bytes: u64) -> Self {
        let receivers = hosts.iter().skip(1).filter(|host| host.is_linked()).cloned().collect();
        Self { contender, receivers, bytes }
    }

    fn received_bytes(&self) -> Result<Vec<u64>, Failure> {
        self.receivers.iter().map(|host| Ok(host.received_bytes()?)).collect()
    }
}

impl<C: Contender> Contender for Linked<C> {
    fn name(&self) -> String {
        self.contender.name()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        self.contender.ready(round)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let before = self.received_bytes()?;
        let cost = self.contender.run()?;
        let after = self.received_bytes()?;
        for ((before, after), host) in before.into_iter().zip(after).zip(&self.receivers) {
            if after.saturating_sub(before) < self.bytes {
                return Err(Failure::Wrong { place: format!("at {} by its link", host.address()) });
            }
        }
        Ok(cost)
    }

    fn verify(&mut self) -> Result<(), Failure> {
        self.contender.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Idle;

    impl Contender for Idle {
        fn name(&self) -> String {
            "idle".into()
        }

        fn ready(&mut self, _round: u32) -> Result<(), Failure> {
            Ok(())
        }

        fn run(&mut self) -> Result<Cost, Failure> {
            Ok(Cost { wall: Duration::from_secs(1), processors: Duration::ZERO })
        }

        fn verify(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn without_links_nothing_is_asked_of_them() {
        let mut linked = Linked::new(Idle, &[Host::here(), Host::here()], 1);
        assert_eq!(linked.run().unwrap().wall, Duration::from_secs(1));
        assert_eq!(linked.name(), "idle");
    }
}
