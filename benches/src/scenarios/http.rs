//! Small values over HTTP.

use suites::Http;

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::nodes::Nodes;
use crate::peers::hello::Hello;
use crate::peers::wrk::{Method, Wrk};
use crate::scenario::{Contender, Contenders, Scenario, Unit};

/// Requests that rates are told of. `wrk` runs for a time, and does as many as there is time for.
const REQUESTS: u64 = 10_000;
/// Requests per second of a free core that were measured for gswarm's data server, whose interface is HTTP too.
const GSWARM_RATE: f64 = 8_500.0;
/// Bytes of memory of the node.
const MEMORY: u64 = 64 << 20;

/// All over HTTP.
pub fn all() -> Vec<Box<dyn Scenario>> {
    let each = |method| [1, 50].map(|connections| Box::new(HttpScenario { method, connections }) as _);
    [Method::Get, Method::Put].into_iter().flat_map(each).collect()
}

struct HttpScenario {
    method: Method,
    connections: u32,
}

impl Scenario for HttpScenario {
    fn name(&self) -> String {
        format!("http-{}-{}", self.method.name().to_lowercase(), self.connections)
    }

    fn compares(&self) -> &'static str {
        match self.method {
            Method::Get => {
                "gets of a value of 100 bytes over HTTP from a node, driven by wrk; beside a server made of the same HTTP \
                 library that answers as many bytes. Processor time is that of the server alone"
            }
            Method::Put => {
                "durable puts of 100 bytes over HTTP to a node, driven by wrk; beside a server made of the same HTTP library \
                 that keeps nothing. Processor time is that of the server alone"
            }
        }
    }

    fn goal(&self) -> &'static str {
        "at least 42,500 requests per processor second of the node: 5 times what was measured for gswarm"
    }

    fn unit(&self) -> Unit {
        Unit::Operation
    }

    fn amount(&self, _: &Conditions) -> u64 {
        REQUESTS
    }

    fn memory_bytes(&self, _: &Conditions) -> u64 {
        512 << 20
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let wrk = Wrk::find(self.method, self.connections, conditions)?;
        let node = Nodes::start_one(MEMORY, conditions)?;
        let ours = Serving { wrk: wrk.clone(), node, rates: Vec::new() };
        Ok(Contenders::new(ours).with(Greeting { wrk, hello: Hello::start()? }))
    }
}

/// A node, and wrk that asks it.
struct Serving {
    wrk: Wrk,
    node: Nodes,
    /// Requests per second of processor time.
    rates: Vec<f64>,
}

/// A server that does nothing else, and wrk that asks it.
struct Greeting {
    wrk: Wrk,
    hello: Hello,
}

impl Contender for Serving {
    fn name(&self) -> String {
        "shoal".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Http::to(self.node.address()).put(Wrk::PATH, [b'v'; Wrk::VALUE]).is(200);
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let cost = ask(&self.wrk, self.node.address(), self.node.processes())?;
        self.rates.push(REQUESTS as f64 / cost.processors.as_secs_f64());
        Ok(cost)
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let read = Http::to(self.node.address()).get(Wrk::PATH).is(200).body;
        if read == [b'v'; Wrk::VALUE] { Ok(()) } else { Err(Failure::Wrong { place: "over HTTP".into() }) }
    }

    fn remark(&self) -> Option<String> {
        let mut rates = self.rates.get(1..)?.to_vec();
        rates.sort_by(f64::total_cmp);
        let (least, middle, most) = (rates.first()?, rates.get(rates.len() / 2)?, rates.last()?);
        Some(format!(
            "{:.1} / {:.1} / {:.1} thousand requests per processor second, {:.1} times the 8,500 of gswarm",
            least / 1e3,
            middle / 1e3,
            most / 1e3,
            middle / GSWARM_RATE
        ))
    }
}

impl Contender for Greeting {
    fn name(&self) -> String {
        "hello".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        ask(&self.wrk, self.hello.address(), &[])
    }

    fn verify(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// What [`REQUESTS`] cost the server, from what they cost while wrk ran.
fn ask(wrk: &Wrk, address: &str, processes: &[u32]) -> Result<Cost, Failure> {
    let meter = Meter::start(processes)?;
    let requests = wrk.run(address)?;
    let Cost { wall, processors } = meter.stop()?;
    let share = REQUESTS as f64 / requests.max(1) as f64;
    Ok(Cost { wall: wall.mul_f64(share), processors: processors.mul_f64(share) })
}
