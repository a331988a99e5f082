//! UCX with the arena registered, as its settings leave it.

use std::sync::Arc;

use ::ucx::{Context, Region, Severity};
use memory::Arena;

use super::UcxFabric;
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Adapter, Fabric, LaneKind, Room};

/// Transports, before the `/` of their names, that lock no memory.
const LOCK_NOTHING: [&str; 7] = ["self", "tcp", "posix", "sysv", "cma", "xpmem", "knem"];

/// How UCX is used. What is not here stands in its own environment variables (`UCX_TLS`, `UCX_NET_DEVICES`, …).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UcxSettings {
    /// Settings that come before the environment, by their names without `UCX_`.
    pub options: Vec<(String, String)>,
}

/// UCX with the arena registered, shared by all shards.
pub(crate) struct UcxAdapter {
    pub(super) context: Arc<Context>,
    pub(super) region: Arc<Region>,
    pub(super) name: String,
}

impl UcxAdapter {
    /// UCX with all transports that its settings leave, or why it cannot be used.
    ///
    /// Takes all memory of the arena from the machine where a device locks it.
    pub(crate) fn open(settings: &UcxSettings, arena: &Arena) -> Result<Arc<Self>, LaneError> {
        ::ucx::on_log(|severity, text| match severity {
            Severity::Error => tracing::warn!(target: "ucx", "{text}"),
            Severity::Warning | Severity::Detail => tracing::debug!(target: "ucx", "{text}"),
        });
        let options: Vec<(&str, &str)> =
            settings.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let context = Context::open(&options)?;
        let transports = context.transports();
        let locks = |transport: &String| !LOCK_NOTHING.contains(&transport.split('/').next().unwrap_or(""));
        if transports.iter().any(locks) {
            // Before it is registered, because the kernel makes no large pages of memory that a device holds.
            let _ = arena.prefault();
        }
        let length = usize::try_from(arena.size()).unwrap_or(usize::MAX);
        let region = Region::of_file(&context, arena.read_write_fd(), length)?;
        let version = ::ucx::Library::get().map_err(::ucx::Error::from)?.version_text();
        let name = format!("UCX {version} ({})", transports.join(", "));
        Ok(Arc::new(Self { context, region, name }))
    }
}

impl Adapter for UcxAdapter {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> LaneKind {
        LaneKind::Ucx
    }

    fn open(self: Arc<Self>, wanted: Room) -> Result<Box<dyn Fabric>, LaneError> {
        Ok(Box::new(UcxFabric::open(&self, wanted)?))
    }
}
