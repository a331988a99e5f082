//! A chunk into a program's own memory.

use std::cell::RefCell;
use std::rc::Rc;

use client::{GetOptions, PutOptions, Silent, Source};

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::nodes::{Nodes, memory_bytes};
use crate::payload::{Payload, touched};
use crate::peers::memcpy::Memcpy;
use crate::scenario::{Contender, Contenders, Scenario};

const SIZE: u64 = 1 << 30;
const KEY: &str = "bench";

/// A get through shared memory, beside copying the same bytes within one process.
pub struct Get;

impl Scenario for Get {
    fn name(&self) -> String {
        "get".into()
    }

    fn compares(&self) -> &'static str {
        "one thread of a client that reads a chunk in its node's memory into memory of its own; beside one thread \
         that copies as many bytes within its own memory; all of that touched before"
    }

    fn goal(&self) -> &'static str {
        "at least 0.8 of the rate of memcpy"
    }

    fn amount(&self, conditions: &Conditions) -> u64 {
        conditions.sized(SIZE)
    }

    fn memory_bytes(&self, conditions: &Conditions) -> u64 {
        let bytes = self.amount(conditions);
        2 * bytes + memory_bytes(bytes)
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let payload = Payload::new(self.amount(conditions))?;
        let memory = Rc::new(RefCell::new(touched(self.amount(conditions))?));
        let ours = Getting::start(&payload, &memory, conditions)?;
        Ok(Contenders::new(ours).with(Memcpy::new(&payload, &memory)))
    }
}

struct Getting {
    nodes: Nodes,
    payload: Payload,
    memory: Rc<RefCell<Vec<u8>>>,
}

impl Getting {
    fn start(
        payload: &Payload,
        memory: &Rc<RefCell<Vec<u8>>>,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let nodes = Nodes::start_one(payload.length(), conditions)?;
        let file = payload.file(conditions)?;
        let source = Source::Path(file.path().to_owned());
        let put =
            nodes.first().put(KEY, source, &PutOptions { volatile: true, ..PutOptions::default() }, &Silent);
        put.map_err(Failure::client("putting the chunk"))?;
        Ok(Self { nodes, payload: payload.clone(), memory: memory.clone() })
    }
}

impl Contender for Getting {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        self.memory.borrow_mut().fill(1);
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let mut memory = self.memory.borrow_mut();
        let meter = Meter::start(self.nodes.processes())?;
        let got = self.nodes.first().get_to_memory(KEY, &mut memory, &GetOptions::default(), &Silent);
        got.map_err(Failure::client("getting the chunk"))?;
        meter.stop()
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let right = *self.memory.borrow() == self.payload.bytes();
        if right { Ok(()) } else { Err(Failure::Wrong { place: "at the client".into() }) }
    }
}
