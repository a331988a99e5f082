//! Chunks on GPUs: how their pieces get there and back.

use std::rc::Rc;
use std::sync::Arc;

use flow::verify::checksum_of;
use flow::wire::session::Device;
use memory::SharedLease;

use super::Shard;
use super::counters::add;
use super::replica::{OnGpu, Replica};
use crate::gpu::Region;
use crate::{EngineError, Event, Fault};

/// Pieces on their way to a GPU at once when a replica is copied there.
const COPIES_AT_ONCE: u32 = 8;

impl Shard {
    /// Takes memory for a replica on the GPU that is meant, unless it has some there. From then on pieces that come are copied
    /// there.
    pub(super) async fn give_region(
        &self,
        replica: &Replica,
        device: Device,
    ) -> Result<Arc<Region>, EngineError> {
        let known = |device| {
            let state = replica.state.borrow();
            state.on_gpu.iter().find(|there| there.is(device)).map(|there| there.region.clone())
        };
        if let Some(region) = known(device) {
            return Ok(region);
        }
        let gpu = self.gpus.choose(device)?;
        let region = Arc::new(gpu.allocate(replica.geometry.size()).await?);
        // Somebody else may have done the same meanwhile.
        if let Some(region) = known(Device::Gpu(gpu.index())) {
            return Ok(region);
        }
        let there = OnGpu::empty(region.clone(), replica.geometry.pieces());
        replica.state.borrow_mut().on_gpu.push(there);
        Ok(region)
    }

    /// Brings every piece of a complete replica to a GPU, where it has memory, and reads all of it back to see that it is right.
    pub(super) async fn fill_region(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        region: &Arc<Region>,
    ) -> Result<(), EngineError> {
        if replica.is_on(Device::Gpu(region.gpu())) {
            return Ok(());
        }
        self.settle_writes(replica, 0).await?;
        for piece in 0..replica.geometry.pieces() {
            if !replica.state.borrow().is_on_gpu(region, piece) {
                let lease = self.piece(replica, piece).await?;
                self.send_to_gpu(replica, region, piece, lease);
                self.settle_writes(replica, COPIES_AT_ONCE).await?;
            }
        }
        self.settle_writes(replica, 0).await?;
        for piece in 0..replica.geometry.pieces() {
            self.read_from_gpu(replica, region, piece).await?;
        }
        // It may have been dropped meanwhile.
        if replica.is_on(Device::Gpu(region.gpu())) { Ok(()) } else { Err(EngineError::NoChunk(replica.id)) }
    }

    /// Begins to copy a verified piece to a GPU.
    pub(super) fn send_to_gpu(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        region: &Arc<Region>,
        piece: u32,
        lease: SharedLease,
    ) {
        replica.state.borrow_mut().writing += 1;
        let (shard, replica, region) = (self.clone(), replica.clone(), region.clone());
        glommio::spawn_local(async move {
            let written = region.write(replica.geometry.offset(piece), lease).await;
            {
                let mut state = replica.state.borrow_mut();
                state.writing -= 1;
                match written {
                    Ok(_) => state.put_on_gpu(&region, piece),
                    Err(error) => state.write_error = Some(error),
                }
            }
            add(&shard.counters.gpu_bytes_written, replica.geometry.length(piece).into());
            replica.changed.notify();
        })
        .detach();
    }

    /// A piece as it is on a GPU, verified. A damaged one is lost there, and fetched again when nobody else has it.
    pub(super) async fn read_from_gpu(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        region: &Region,
        piece: u32,
    ) -> Result<SharedLease, EngineError> {
        let lease = self.acquire(replica.geometry.length(piece)).await?;
        let read = region.read(replica.geometry.offset(piece), lease).await;
        add(&self.counters.gpu_bytes_read, replica.geometry.length(piece).into());
        let expected = replica.descriptor.get().map(|descriptor| descriptor.checksums[piece as usize]);
        let message = match read {
            Ok(lease) if expected == Some(checksum_of(lease.as_slice())) => return Ok(Arc::new(lease)),
            Ok(_) => format!("the bytes on gpu:{} fail their checksum", region.gpu()),
            Err(error) => format!("reading it failed: {error}"),
        };
        replica.state.borrow_mut().lose_on_gpu(region, piece);
        add(&self.counters.pieces_corrupt, 1);
        self.tell(Event::Fault(Fault { chunk: replica.id, piece, peer: None, message }));
        self.mend(replica);
        Err(EngineError::Corrupt { chunk: replica.id, piece })
    }
}
