//! Copying memory within a process.

use std::cell::RefCell;
use std::rc::Rc;

use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::payload::Payload;
use crate::scenario::Contender;

/// Copies the payload into other memory of this process, in one thread.
pub struct Memcpy {
    payload: Payload,
    memory: Rc<RefCell<Vec<u8>>>,
}

impl Memcpy {
    /// Copies into `memory`, which is as long as the payload.
    pub fn new(payload: &Payload, memory: &Rc<RefCell<Vec<u8>>>) -> Self {
        Self { payload: payload.clone(), memory: memory.clone() }
    }
}

impl Contender for Memcpy {
    fn name(&self) -> String {
        "memcpy".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        self.memory.borrow_mut().fill(1);
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let mut memory = self.memory.borrow_mut();
        let meter = Meter::start(&[])?;
        memory.copy_from_slice(self.payload.bytes());
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let right = *self.memory.borrow() == self.payload.bytes();
        if right { Ok(()) } else { Err(Failure::Wrong { place: "in memory".into() }) }
    }
}
