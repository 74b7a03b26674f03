//! What happens in a run, all of it drawn from the seed before it begins.

use claudepool::id::RequestId;
use claudepool::pb;

use super::rng::Rng;

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub slots: u32,
    pub spares: u32,
    /// Store calls in a hundred that take a moment.
    pub slow_percent: u64,
    /// Calls that make work; an operation names one by its place, and a call
    /// with a request may be made again.
    pub calls: Vec<Call>,
    /// Milliseconds of waiting, then the operation.
    pub ops: Vec<(u64, Op)>,
}

/// A call that makes work.
#[derive(Clone, Debug)]
pub struct Call {
    pub request: Option<RequestId>,
    pub caller: u8,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Submit(Job),
    /// Attached; the caller leaves after so many milliseconds, or stays.
    Start(Job, Option<u64>),
    Run(Job),
    FanOut(Vec<Job>, Option<u64>),
    Chain(Chain),
    FanOutChains(Vec<Chain>),
}

/// A task. Its marker is the first line of its prompt.
#[derive(Clone, Debug)]
pub struct Job {
    pub marker: String,
    pub script: Vec<String>,
    pub conversation: Option<String>,
    pub new_process: bool,
    pub recovery: pb::RecoveryPolicy,
    pub budget: Option<i64>,
    pub queue_timeout: Option<u64>,
    pub run_timeout: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Chain {
    pub marker: String,
    pub recovery: pb::RecoveryPolicy,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub script: Vec<String>,
    pub retries: i32,
    /// What is run instead after its failure.
    pub rescue: Option<Vec<String>>,
}

/// Numbers without a meaning of their own choose among what there is then.
#[derive(Clone, Debug)]
pub enum Op {
    Call(usize),
    Cancel(u64),
    CancelGroup(u64),
    CancelChain(u64, bool),
    Retry(u64),
    /// Reads a log from after so many entries, and attaches again after some.
    Watch(u64, u64, u64),
    Pause,
    Resume,
    Scale(u32),
    Budget(Option<i64>),
    RestartSlot(u64),
    /// Drains within so many milliseconds; another pool follows.
    Drain(u64),
    /// Nothing runs any more after so many changes of the store; whether the
    /// last one is still made.
    Crash(u64, bool),
    Store(StoreFault, u64),
    Agent(AgentFault, u64),
    /// Every process dies.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreFault {
    /// Calls fail and do nothing.
    Before,
    /// Changes are made, and reported as failed.
    After,
    /// Calls take until it is over.
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentFault {
    /// The provider limits.
    Limits,
    /// No process starts.
    NoStart,
    /// Processes take until it is over to start.
    SlowStart,
}

impl Plan {
    pub fn new(seed: u64, length: u64) -> Self {
        let mut draw = Draw {
            rng: Rng::new(seed),
            markers: 0,
            calls: Vec::new(),
            faults: !seed.is_multiple_of(4),
        };
        let (slots, spares) = (draw.rng.range(1, 4), draw.rng.range(0, 2));
        let slow_percent = draw.rng.pick(&[0, 20, 60]);
        let count = draw.rng.range(length / 2, length);
        let ops = (0..count).map(|_| (draw.gap(), draw.op())).collect();
        Self {
            seed,
            slots: slots as u32,
            spares: spares as u32,
            slow_percent,
            calls: draw.calls,
            ops,
        }
    }

    /// What a task that ran under a marker is tagged with: its own, or that of
    /// the chains it came with.
    pub fn tag<'a>(&'a self, marker: &'a str) -> &'a str {
        let of = |call: &'a Call| {
            let chains = call.kind.chains();
            let ours = |chain: &Chain| {
                let step = marker.strip_prefix(&chain.marker);
                step.is_some_and(|step| step.starts_with('s'))
            };
            let first = chains.first().filter(|_| chains.iter().any(ours))?;
            Some(first.marker.as_str())
        };
        self.calls.iter().find_map(of).unwrap_or(marker)
    }

    /// Every marker with the caller and the conversation it is under.
    pub fn conversation(&self, marker: &str) -> Option<(u8, String)> {
        let of = |call: &Call| {
            let job = call.kind.jobs().iter().find(|job| job.marker == marker)?;
            Some((call.caller, job.conversation.clone()?))
        };
        self.calls.iter().find_map(of)
    }
}

impl Kind {
    pub fn jobs(&self) -> &[Job] {
        match self {
            Kind::Submit(job) | Kind::Start(job, _) | Kind::Run(job) => std::slice::from_ref(job),
            Kind::FanOut(jobs, _) => jobs,
            Kind::Chain(_) | Kind::FanOutChains(_) => &[],
        }
    }

    pub fn chains(&self) -> &[Chain] {
        match self {
            Kind::Chain(chain) => std::slice::from_ref(chain),
            Kind::FanOutChains(chains) => chains,
            Kind::Submit(_) | Kind::Start(..) | Kind::Run(_) | Kind::FanOut(..) => &[],
        }
    }
}

struct Draw {
    rng: Rng,
    markers: u64,
    calls: Vec<Call>,
    /// Whether anything fails in this run.
    faults: bool,
}

impl Draw {
    fn gap(&mut self) -> u64 {
        match self.rng.range(0, 9) {
            0..=4 => 0,
            5..=7 => self.rng.range(1, 50),
            8 => self.rng.range(50, 2_000),
            _ => self.rng.range(2_000, 20_000),
        }
    }

    fn op(&mut self) -> Op {
        let any = self.rng.next();
        match self.rng.range(0, 99) {
            0..=39 => Op::Call(self.call()),
            40..=45 => self.repeat(),
            46..=53 => Op::Cancel(any),
            54 => Op::CancelGroup(any),
            55..=56 => Op::CancelChain(any, self.rng.percent(50)),
            57..=59 => Op::Retry(any),
            60..=69 => Op::Watch(any, self.rng.range(0, 4), self.rng.range(1, 9)),
            70 => Op::Pause,
            71..=73 => Op::Resume,
            74..=77 => Op::Scale(self.rng.range(1, 5) as u32),
            78..=80 => {
                let limit = self.rng.range(0, 8_000) as i64;
                Op::Budget(self.rng.percent(60).then_some(limit))
            }
            81..=82 => Op::RestartSlot(any),
            83 => Op::Drain(self.rng.pick(&[0, 100, 30_000])),
            _ if !self.faults => Op::Call(self.call()),
            84..=87 => Op::Crash(self.rng.range(0, 12), self.rng.percent(50)),
            88..=92 => {
                let kinds = [StoreFault::Before, StoreFault::Hangs, StoreFault::After];
                Op::Store(self.rng.pick(&kinds), self.rng.range(1, 3_000))
            }
            93..=97 => {
                let kinds = [
                    AgentFault::Limits,
                    AgentFault::NoStart,
                    AgentFault::SlowStart,
                ];
                Op::Agent(self.rng.pick(&kinds), self.rng.range(1, 20_000))
            }
            _ => Op::Kill,
        }
    }

    fn repeat(&mut self) -> Op {
        let known: Vec<usize> = (0..self.calls.len())
            .filter(|place| self.calls[*place].request.is_some())
            .collect();
        match known.is_empty() {
            true => Op::Call(self.call()),
            false => Op::Call(self.rng.pick(&known)),
        }
    }

    fn call(&mut self) -> usize {
        let leave = |rng: &mut Rng| rng.percent(40).then(|| rng.range(0, 8_000));
        let kind = match self.rng.range(0, 19) {
            0..=8 => Kind::Submit(self.job()),
            9..=11 => Kind::Start(self.job(), leave(&mut self.rng)),
            12..=13 => Kind::Run(self.job()),
            14..=16 => {
                let count = self.rng.range(1, 5);
                let jobs = (0..count).map(|_| self.job()).collect();
                Kind::FanOut(jobs, leave(&mut self.rng))
            }
            17..=18 => Kind::Chain(self.chain()),
            _ => {
                let count = self.rng.range(1, 3);
                Kind::FanOutChains((0..count).map(|_| self.chain()).collect())
            }
        };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        id[8..].copy_from_slice(&self.rng.next().to_be_bytes());
        self.calls.push(Call {
            request: self.rng.percent(50).then(|| RequestId::from_bytes(id)),
            caller: u8::from(self.rng.percent(25)),
            kind,
        });
        self.calls.len() - 1
    }

    fn marker(&mut self, kind: &str) -> String {
        self.markers += 1;
        format!("{kind}{}", self.markers)
    }

    fn job(&mut self) -> Job {
        let recovery = [
            pb::RecoveryPolicy::Unspecified,
            pb::RecoveryPolicy::Restart,
            pb::RecoveryPolicy::Resume,
            pb::RecoveryPolicy::Fail,
        ];
        let keys = ["red", "blue"];
        Job {
            marker: self.marker("t"),
            script: self.script(),
            conversation: self
                .rng
                .percent(20)
                .then(|| self.rng.pick(&keys).to_owned()),
            new_process: self.rng.percent(5),
            recovery: self.rng.pick(&recovery),
            budget: self
                .rng
                .percent(30)
                .then(|| self.rng.range(0, 1_500) as i64),
            queue_timeout: self.rng.percent(10).then(|| self.rng.range(0, 5_000)),
            run_timeout: self.rng.percent(10).then(|| self.rng.range(1_000, 5_000)),
        }
    }

    fn chain(&mut self) -> Chain {
        let count = self.rng.range(1, 4);
        Chain {
            marker: self.marker("c"),
            recovery: self.job().recovery,
            steps: (0..count)
                .map(|_| Step {
                    script: self.script(),
                    retries: self.rng.pick(&[0, 0, 0, 1, 2]),
                    rescue: self.rng.percent(30).then(|| self.script()),
                })
                .collect(),
        }
    }

    /// What the agent is to do. A line `@1 …` counts in the first turn alone.
    fn script(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cost = 0;
        if self.rng.percent(30) {
            lines.push(
                self.rng
                    .pick(&["limited", "limited +5", "limited +40"])
                    .to_owned(),
            );
        }
        for _ in 0..self.rng.range(0, 5) {
            lines.push(match self.rng.range(0, 5) {
                0 => "say more".to_owned(),
                1 | 2 => format!("wait {}", self.rng.range(1, 3_000)),
                3 => "tool".to_owned(),
                _ => {
                    cost += self.rng.range(1, 300);
                    format!("cost {cost}")
                }
            });
        }
        let faults = [
            "@1 die 137",
            "die 1",
            "@1 fail 529",
            "@1 fail 408",
            "fail 500",
            "fail 400",
            "violate",
            "hang",
            "stuck",
            "dirty",
            "@1 deaf",
            "deaf",
            "retrying 401",
            "retrying 529",
            "slow reset",
            "@1 stuck",
            "@1 hang",
        ];
        if self.faults && self.rng.percent(35) {
            let at = self.rng.range(0, lines.len() as u64) as usize;
            lines.insert(at, self.rng.pick(&faults).to_owned());
        }
        lines
    }
}
