//! Small values over HTTP.

use serde_json::json;
use suites::Http;

use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::nodes::Nodes;
use crate::peers::hello::Hello;
use crate::peers::redis::Redis;
use crate::peers::wrk::{Request, Wrk};
use crate::scenario::{Contender, Contenders, Scenario, Unit};

/// Requests that rates are told of. `wrk` runs for a time, and does as many as there is time for.
const REQUESTS: u64 = 10_000;
/// Requests per second of a free core that were measured for gswarm's data server, whose interface is HTTP too.
const GSWARM_RATE: f64 = 8_500.0;
/// Bytes of memory of the node.
const MEMORY: u64 = 64 << 20;

/// All over HTTP.
pub fn all() -> Vec<Box<dyn Scenario>> {
    let requests = [Request::Get, Request::Put, Request::Read, Request::Write, Request::Persist];
    let each = |request| [1, 50].map(|connections| Box::new(HttpScenario { request, connections }) as _);
    requests.into_iter().flat_map(each).collect()
}

struct HttpScenario {
    request: Request,
    connections: u32,
}

impl Scenario for HttpScenario {
    fn name(&self) -> String {
        format!("{}-{}", self.request.name(), self.connections)
    }

    fn compares(&self) -> &'static str {
        match self.request {
            Request::Get => {
                "gets of a value of 100 bytes over HTTP from a node, driven by wrk; beside a server made of the same HTTP \
                 library that answers as many bytes. Processor time is that of the server alone"
            }
            Request::Put => {
                "durable puts of 100 bytes over HTTP to a node, driven by wrk; beside a server made of the same HTTP library \
                 that keeps nothing. Processor time is that of the server alone"
            }
            Request::Read => {
                "GET /read of a value of 100 bytes by gswarm's interface, driven by wrk; beside a server made of the same \
                 HTTP library that answers as many bytes, and beside Redis, read by redis-benchmark over its own \
                 protocol. Processor time is that of the server alone"
            }
            Request::Write => {
                "POST /write of 100 bytes into memory by gswarm's interface, driven by wrk; beside a server made of the \
                 same HTTP library that keeps nothing, and beside Redis, which redis-benchmark writes to over its own \
                 protocol. Processor time is that of the server alone"
            }
            Request::Persist => {
                "durable POST /write of 100 bytes by gswarm's interface, driven by wrk; beside a server made of the same \
                 HTTP library that keeps nothing, and beside Redis, which syncs its log before it answers. Processor \
                 time is that of the server alone"
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
        let wrk = Wrk::find(self.request, self.connections, conditions)?;
        let node = Nodes::start_one(MEMORY, conditions)?;
        let ours = Serving { request: self.request, wrk: wrk.clone(), node, rates: Vec::new() };
        let contenders = Contenders::new(ours).with(Greeting { wrk, hello: Hello::start()? });
        if matches!(self.request, Request::Get | Request::Put) {
            return Ok(contenders);
        }
        let redis = Redis::start(self.request, self.connections, REQUESTS, conditions);
        contenders.with_if_there(Redis::name_for(self.request), redis)
    }
}

/// A node, and wrk that asks it.
struct Serving {
    request: Request,
    wrk: Wrk,
    node: Nodes,
    /// Requests per second of processor time.
    rates: Vec<f64>,
}

impl Serving {
    fn http(&self) -> Http {
        Http::to(self.node.address())
    }
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
        let value = "v".repeat(Request::VALUE);
        match self.request {
            Request::Get | Request::Put => self.http().put("/v1/kv/bench/0", value).is(200),
            Request::Read | Request::Write | Request::Persist => {
                let write = json!({"key": "bench/0", "value": value, "persist": self.request.is_durable()});
                self.http().json("POST", "/write", &write).is(200)
            }
        };
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let cost = ask(&self.wrk, self.node.address(), self.node.processes())?;
        self.rates.push(REQUESTS as f64 / cost.processors.as_secs_f64());
        Ok(cost)
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let value = "v".repeat(Request::VALUE);
        let is_right = match self.request {
            Request::Get | Request::Put => self.http().get("/v1/kv/bench/0").is(200).body == value.as_bytes(),
            _ => self.http().get("/read/bench/0").is(200).value()["value"] == value,
        };
        if is_right { Ok(()) } else { Err(Failure::Wrong { place: "over HTTP".into() }) }
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
