//! A device of the node with the arena registered, whichever way its lanes are connected.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use ::verbs::{
    Access, Attachment, CompletionChannel, CompletionQueue, Context, Error, Event, LinkLayer, Mapping,
    MemoryRegion, ProtectionDomain, RemoteRange, Segment,
};
use memory::Arena;

use super::devices::{Candidate, RdmaSettings, Way, arena_numa_node, candidates, nearest_first};
use super::error::LaneError;
use super::fabric::{Adapter, Fabric, Health, Room, Write};
use super::iwarp::IwarpFabric;
use super::subnet::{Place, prefix_bits};
use super::verbs::VerbsFabric;

/// A device of the node with the arena registered, shared by all shards.
pub(crate) struct VerbsAdapter {
    context: Arc<Context>,
    domain: Arc<ProtectionDomain>,
    region: Arc<MemoryRegion>,
    port: u8,
    way: Way,
    settings: RdmaSettings,
    health: Mutex<Health>,
}

impl VerbsAdapter {
    /// The devices that can be used, the nearest to the memory first. At least one, or why there is none.
    ///
    /// Takes all memory of the arena from the machine, since a device reaches only what is there and cannot be moved.
    pub(crate) fn open_all(settings: &RdmaSettings, arena: &Arena) -> Result<Vec<Arc<Self>>, LaneError> {
        let mut candidates = candidates(settings)?;
        // Before it is registered, because the kernel makes no large pages of memory that a device holds. Where it is too
        // old for this, registering takes the memory.
        let _ = arena.prefault();
        nearest_first(&mut candidates, arena_numa_node());
        let length = usize::try_from(arena.size()).unwrap_or(usize::MAX);
        let mapping = Arc::new(Mapping::of_file(arena.read_write_fd(), 0, length)?);
        let mut adapters = Vec::new();
        let mut refused = None;
        for candidate in candidates {
            match Self::open(&candidate, settings, &mapping) {
                Ok(adapter) => adapters.push(Arc::new(adapter)),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if adapters.is_empty() => Err(error),
            Some(error) => {
                tracing::warn!(%error, "an RDMA device is not used");
                Ok(adapters)
            }
            None => Ok(adapters),
        }
    }

    /// Each port has a context of its own, so that nobody else takes its events.
    fn open(candidate: &Candidate, settings: &RdmaSettings, arena: &Arc<Mapping>) -> Result<Self, LaneError> {
        let (context, port) = (Context::open(&candidate.device)?, candidate.port);
        let domain = ProtectionDomain::allocate(&context)?;
        let access = Access { remote_write: true, ..Access::default() };
        let region = MemoryRegion::register(&domain, arena.clone(), access)
            .map_err(|error| registration_error(error, context.device().name(), arena.len() as u64))?;
        let health = Mutex::new(Health::Up);
        let (way, settings) = (candidate.way, settings.clone());
        Ok(Self { context, domain, region, port, way, settings, health })
    }

    /// A queue for the completions of so many requests, and what tells of them.
    pub(super) fn completions<H>(&self, capacity: usize) -> Result<Completions<H>, LaneError> {
        let channel = CompletionChannel::create(&self.context)?;
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        let queue = CompletionQueue::create(&self.context, Some(&channel), capacity)?;
        Ok(Completions { queue, channel })
    }

    /// The arena, as the peer must know it.
    pub(super) fn arena(&self) -> Result<RemoteRange, LaneError> {
        Ok(self.region.remote(0, self.region.length())?)
    }

    /// Where a write goes in a peer's arena, and what it reads of this node's.
    pub(super) fn prepare(
        &self,
        write: &Write,
        remote: &RemoteRange,
    ) -> Result<(RemoteRange, Segment), LaneError> {
        let offset = write.range_in(remote.length)?;
        let outside = || LaneError::OutOfRange { offset, length: write.length.into(), of: remote.length };
        let address = remote.address.checked_add(offset).ok_or_else(outside)?;
        let segment = self.region.segment(write.lease.offset(), write.length)?;
        Ok((RemoteRange { address, length: write.to.length.into(), key: remote.key }, segment))
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    pub(super) fn settings(&self) -> &RdmaSettings {
        &self.settings
    }

    /// The port and the address of it, as they are at this time: a link that comes up again may have others.
    pub(super) fn attachment(&self) -> Result<Attachment, LaneError> {
        let port = self.context.port(self.port)?;
        let gids = self.context.gids(&port)?;
        let unaddressed =
            || LaneError::NoDevice(format!("{}: port {} has no address", self.name(), self.port));
        let gid = self.settings.choose_gid(&gids).ok_or_else(unaddressed)?;
        let partition_key_index = self.settings.partition_key_index;
        Ok(Attachment { partition_key_index, ..Attachment::new(&port, gid) })
    }

    /// Where the port is in the network at this time.
    pub(super) fn place(&self) -> Option<Place> {
        let attachment = self.attachment().ok()?;
        let gid = attachment.gid.gid.0;
        Some(match attachment.link_layer {
            LinkLayer::Ethernet => Place::Ethernet { gid, prefix_bits: prefix_bits(&gid) },
            _ => Place::InfiniBand { gid },
        })
    }

    /// How the device is after all events so far. Whichever shard sees an event first notes it for all.
    pub(crate) fn health(&self) -> Health {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        while *health != Health::Gone {
            match self.context.next_event() {
                Ok(None) => break,
                Ok(Some(Event::DeviceFatal | Event::CompletionQueueFailed)) | Err(_) => {
                    *health = Health::Gone
                }
                Ok(Some(Event::PortDown(port))) if port == self.port => *health = Health::PortDown,
                Ok(Some(Event::PortActive(port))) if port == self.port => *health = Health::Up,
                Ok(Some(_)) => {}
            }
        }
        *health
    }
}

impl Adapter for VerbsAdapter {
    fn name(&self) -> &str {
        self.context.device().name()
    }

    fn open(self: Arc<Self>, wanted: Room) -> Result<Box<dyn Fabric>, LaneError> {
        Ok(match self.way {
            Way::Numbers => Box::new(VerbsFabric::open(&self, wanted)?),
            Way::Address(ip) => Box::new(IwarpFabric::open(&self, ip, wanted)?),
        })
    }
}

/// Where completions of one shard come from.
pub(super) struct Completions<H> {
    pub(super) queue: Rc<CompletionQueue<H>>,
    pub(super) channel: Rc<CompletionChannel>,
}

impl<H> Completions<H> {
    /// As [`Fabric::arm`].
    pub(super) fn arm(&self) -> Result<(), LaneError> {
        while self.channel.take_event()? {}
        Ok(self.queue.arm()?)
    }
}

/// What a failure to register the arena means.
fn registration_error(error: Error, device: &str, bytes: u64) -> LaneError {
    match error.os_error() {
        Some(libc::ENOMEM | libc::EAGAIN | libc::EPERM) => {
            LaneError::MemoryLock { device: device.to_owned(), bytes }
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_locked_memory_is_told_with_its_remedy() {
        let refused = |code| Error::Call {
            call: "ibv_reg_mr",
            device: "mlx5_0".to_owned(),
            source: std::io::Error::from_raw_os_error(code),
        };
        let error = registration_error(refused(libc::ENOMEM), "mlx5_0", 1 << 30);
        let text = error.to_string();
        assert!(text.contains("LimitMEMLOCK=infinity") && text.contains("mlx5_0"), "{text}");
        assert!(matches!(registration_error(refused(libc::EFAULT), "mlx5_0", 1), LaneError::Verbs(_)));
    }
}
