//! GPUs through CUDA's driver.

use std::collections::HashMap;
use std::rc::Rc;

use ::cuda::{Buffer, Context, Error, HostMapping, LoadError};
use flow::wire::session::GpuRecord;
use memory::Arena;

use super::GpuError;
use super::work::{GpuMemory, Slot};
use crate::Finding;

/// The GPUs of the machine.
pub(super) fn found() -> (Vec<GpuRecord>, Finding) {
    let devices = ::cuda::devices();
    let finding = finding(&devices);
    let state = |device: ::cuda::Device| GpuRecord {
        index: device.ordinal,
        name: device.name,
        uuid: device.uuid,
        bus: device.bus,
        memory_bytes: device.memory_bytes,
        limit_bytes: device.memory_bytes,
        used_bytes: 0,
        is_emulated: false,
    };
    (devices.into_iter().flatten().map(state).collect(), finding)
}

/// What to say of the GPUs of the machine.
pub(crate) fn finding(devices: &Result<Vec<::cuda::Device>, Error>) -> Finding {
    let without = "chunks live in DRAM and on NVMe";
    match devices {
        Ok(devices) if !devices.is_empty() => {
            let each = |device: &::cuda::Device| {
                let ::cuda::Device { ordinal, name, bus, memory_bytes, .. } = device;
                format!("gpu:{ordinal} {name} at {bus}, {} GiB", memory_bytes >> 30)
            };
            let found = devices.iter().map(each).collect::<Vec<_>>().join("; ");
            Finding::new("GPUs", found, "devices of chunks, as much of them as --gpu-memory says")
        }
        Ok(_) => Finding::new("GPUs", "NVIDIA's driver, and no GPU", without),
        Err(Error::Load(LoadError::Missing)) => Finding::new("GPUs", "no driver of NVIDIA's", without),
        Err(error) => Finding::new("GPUs", error.to_string(), without)
            .remedy("make `nvidia-smi` show them, and start the node again"),
    }
}

/// The memory of one GPU. The driver takes the GPU into use when memory is first wanted, since that takes some of it.
pub(super) struct CudaMemory {
    index: u16,
    arena: Arena,
    register: bool,
    opened: Option<Opened>,
    regions: HashMap<u64, Rc<Buffer>>,
}

struct Opened {
    context: Rc<Context>,
    arena: Rc<HostMapping>,
}

impl CudaMemory {
    pub(super) fn new(index: u16, arena: Arena, register: bool) -> Self {
        Self { index, arena, register, opened: None, regions: HashMap::new() }
    }

    fn open(&mut self) -> Result<&Opened, Error> {
        if self.opened.is_none() {
            let context = Context::open(self.index)?;
            let (file, size) = (self.arena.read_write_fd(), self.arena.size());
            let arena = Rc::new(HostMapping::of_file(&context, file, size, self.register)?);
            tracing::info!(gpu = self.index, registered = arena.is_registered(), "a GPU is taken into use");
            self.opened = Some(Opened { context, arena });
        }
        self.opened.as_ref().ok_or(Error::NoDevice { ordinal: self.index, count: 0 })
    }
}

impl GpuMemory for CudaMemory {
    fn allocate(&mut self, region: u64, bytes: u64) -> Result<(), GpuError> {
        let buffer = Buffer::allocate(&self.open()?.context, bytes)?;
        self.regions.insert(region, buffer);
        Ok(())
    }

    fn free(&mut self, region: u64) {
        self.regions.remove(&region);
    }

    fn post(&mut self, region: u64, offset: u64, slot: Slot) -> Result<(), GpuError> {
        let unknown = || GpuError::Failed(format!("there is no region {region}"));
        let buffer = self.regions.get(&region).cloned().ok_or_else(unknown)?;
        let Opened { context, arena } = self.open()?;
        let length = slot.length();
        match &slot {
            Slot::In(lease) => {
                let from = (arena, lease.offset());
                context.copy_in((&buffer, offset), from, length, Box::new(slot))?;
            }
            Slot::Out(lease) => {
                let to = (arena, lease.offset());
                context.copy_out((&buffer, offset), to, length, Box::new(slot))?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<Vec<Slot>, GpuError> {
        let kept = self.open()?.context.settle()?;
        let slots = kept.into_iter().map(|kept| kept.downcast::<Slot>().map(|slot| *slot));
        slots.collect::<Result<_, _>>().map_err(|_| GpuError::Failed("a copy kept something else".into()))
    }
}

impl From<Error> for GpuError {
    fn from(error: Error) -> Self {
        match error {
            Error::Full { .. } => Self::Full,
            error => Self::Failed(error.to_string()),
        }
    }
}
