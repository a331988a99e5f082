//! Which GPUs are devices of the node.

use engine::{GpuLimit, GpuSettings, GpuSource};
use flow::limits::GPUS_MAX;

use super::{SettingsError, refuse};
use crate::size;

/// Bytes of a stand-in that is not given a size.
const EMULATED_BYTES: u64 = 1 << 30;
/// Parts of a real GPU's memory, of 100, that are taken unless it is said how many: others want to work on it.
const PERCENT: u8 = 50;

/// What `--emulate-gpus` and `--gpu-memory` say.
pub(super) fn parse(emulated: Option<&str>, limit: Option<&str>) -> Result<GpuSettings, SettingsError> {
    let source = emulated.map_or(Ok(GpuSource::Found), parse_source)?;
    let default = if source == GpuSource::Found { PERCENT } else { 100 };
    Ok(GpuSettings { source, limit: limit.map_or(Ok(GpuLimit::Percent(default)), parse_limit)? })
}

fn parse_source(text: &str) -> Result<GpuSource, SettingsError> {
    let (count, bytes) = match text.split_once(':') {
        Some((count, bytes)) => (count, size::parse(bytes).ok()),
        None => (text, Some(EMULATED_BYTES)),
    };
    let count = count.trim().parse().ok().filter(|count| usize::from(*count) <= GPUS_MAX);
    match (count, bytes) {
        (Some(count), Some(bytes)) if bytes > 0 => Ok(GpuSource::Emulated { count, bytes }),
        _ => {
            let remedy = format!("it must be a number up to {GPUS_MAX}, or such and a size: 2:512MB");
            refuse("--emulate-gpus", text, remedy)
        }
    }
}

fn parse_limit(text: &str) -> Result<GpuLimit, SettingsError> {
    let limit = match text.trim().strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(GpuLimit::Percent),
        None => size::parse(text).ok().map(GpuLimit::Bytes),
    };
    limit.map_or_else(
        || refuse("--gpu-memory", text, "it must be a size such as 16GB, or a part such as 30%"),
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_found_unless_they_are_emulated() {
        let settings = |emulated, limit| parse(emulated, limit).ok().map(|gpus| (gpus.source, gpus.limit));
        let emulated = |count, bytes| GpuSource::Emulated { count, bytes };
        assert_eq!(settings(None, None), Some((GpuSource::Found, GpuLimit::Percent(PERCENT))));
        assert_eq!(settings(None, Some("7%")), Some((GpuSource::Found, GpuLimit::Percent(7))));
        assert_eq!(settings(Some("2"), None), Some((emulated(2, 1 << 30), GpuLimit::Percent(100))));
        assert_eq!(
            settings(Some("1:64MB"), Some("1GB")),
            Some((emulated(1, 64 << 20), GpuLimit::Bytes(1 << 30)))
        );
        for wrong in ["", "x", "17", "1:", "1:0", "1:x", "-1", ":1GB"] {
            assert_eq!(settings(Some(wrong), None), None, "{wrong}");
        }
        for wrong in ["", "101%", "%", "x", "-1"] {
            assert_eq!(settings(None, Some(wrong)), None, "{wrong}");
        }
    }
}
