//! The memory of one instance: every linear memory and table of it, in one sum.
//!
//! Not seen here: stacks, host tables and buffers, which have limits of their own in `state`.

use std::sync::Arc;

use wasmtime::{ResourceLimiter, Result};

use crate::engine::{
    CORE_INSTANCES_PER_COMPONENT_MAX, MEMORIES_PER_COMPONENT_MAX, TABLES_PER_COMPONENT_MAX,
};
use crate::invocation::Shared;
use crate::meter::Meter;

/// A table element is a pointer.
const ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

pub(crate) struct Limiter {
    bytes_max: u64,
    used: u64,
    shared: Arc<Shared>,
    meter: Arc<Meter>,
}

impl Limiter {
    pub(crate) fn new(bytes_max: u64, shared: Arc<Shared>, meter: Arc<Meter>) -> Self {
        Self {
            bytes_max,
            used: 0,
            shared,
            meter,
        }
    }

    /// Another invocation begins in the same instance.
    pub(crate) fn renew(&mut self, shared: Arc<Shared>) {
        self.shared = shared;
    }

    /// Never taken back when wasmtime reports that the growth failed: it reports failures that
    /// were never announced, too, and a guest could lower its own count with those.
    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if wanted > self.bytes_max {
            self.shared.deny_growth(wanted);
            return false;
        }
        self.used = wanted;
        self.meter.memory_grew(bytes);
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_PER_COMPONENT_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_COMPONENT_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT_MAX as usize
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.meter.memory_freed(self.used);
    }
}
