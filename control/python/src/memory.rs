//! Memory of both sides: what Python gives to be put, and what it gets.

use std::sync::atomic::AtomicU8;

use client::{Memory, View};
use pymemory::{Source, Stable};
use pyo3::prelude::*;

use crate::error;

/// Several buffers of Python, one behind the other.
pub(crate) struct Parts {
    parts: Vec<(u64, Source)>,
    size: u64,
}

impl Parts {
    /// The bytes of objects with the buffer protocol.
    pub(crate) fn of(objects: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        let (mut parts, mut size) = (Vec::with_capacity(objects.len()), 0);
        for object in objects {
            let source = Source::of(object)?;
            let start = size;
            size += source.size() as u64;
            if source.size() > 0 {
                parts.push((start, source));
            }
        }
        Ok(Self { parts, size })
    }
}

impl Memory for Parts {
    fn size(&self) -> u64 {
        self.size
    }

    fn shared(&self, offset: u64, length: usize) -> Option<&[AtomicU8]> {
        let after = self.parts.partition_point(|(start, _)| *start <= offset);
        let (start, source) = self.parts.get(after.checked_sub(1)?)?;
        source.shared((offset - start) as usize, length)
    }

    fn copy_to(&self, mut offset: u64, mut output: &mut [u8]) {
        let first = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        for (start, source) in &self.parts[first.min(self.parts.len())..] {
            let at = (offset - start) as usize;
            let length = output.len().min(source.size() - at);
            let (part, rest) = std::mem::take(&mut output).split_at_mut(length);
            let copied = source.copy_to(at, part);
            debug_assert!(copied, "the range lies within the part");
            (offset, output) = (offset + length as u64, rest);
            if output.is_empty() {
                break;
            }
        }
    }
}

/// Bytes that were copied for Python.
pub(crate) struct Copied(pub(crate) Vec<u8>);

impl Stable for Copied {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_copy(&self) -> bool {
        true
    }
}

/// Bytes in the memory of the node.
pub(crate) struct InPlace {
    /// Present until the end.
    view: Option<View>,
    writable: bool,
    process: u32,
}

impl InPlace {
    pub(crate) fn new(view: View, writable: bool) -> Self {
        Self { view: Some(view), writable, process: std::process::id() }
    }
}

impl Stable for InPlace {
    fn bytes(&self) -> &[u8] {
        self.view.as_deref().unwrap_or_default()
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn is_held(&self) -> bool {
        self.view.as_ref().is_some_and(View::is_held)
    }

    fn is_copy(&self) -> bool {
        false
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child that was forked has the same connection, and must not end it for its parent.
            std::mem::forget(self.view.take());
        }
    }
}

/// A buffer for so many bytes; a length that memory cannot have is refused.
pub(crate) fn buffer(length: u64) -> PyResult<Vec<u8>> {
    let wrong = || error::invalid("there is no room in memory for so many bytes");
    let length = usize::try_from(length).map_err(|_| wrong())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| wrong())?;
    bytes.resize(length, 0);
    Ok(bytes)
}
