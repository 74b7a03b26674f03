//! What a row of the benchmark is made of: figures, each with a value per
//! round, and goals, each a comparison made within one round.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Whatever went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One row of the page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its name on the command line and in file names.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How it was measured: a paragraph.
    pub how: String,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What had to be shown.
    pub goals: Vec<Goal>,
    /// How long measuring took.
    pub seconds: f64,
    /// Whether it was a look only.
    pub quick: bool,
    /// Seconds since the Unix epoch.
    pub time: i64,
    /// What the disk took for 4 KiB just before, in milliseconds.
    pub disk_ms: f64,
}

/// One thing about one way, a value per round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What is measured: a column, and a plot if more than one way has it.
    pub what: String,
    /// Who does it: a line.
    pub way: String,
    /// A value per round.
    pub values: Vec<f64>,
}

/// A goal, and how it turned out in each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// What is compared.
    pub what: String,
    /// Unit of the values; empty: a ratio.
    pub unit: String,
    /// At most, or at least.
    pub bound: Bound,
    /// The limit.
    pub limit: f64,
    /// A value per round.
    pub values: Vec<f64>,
}

/// Which side of the limit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// Not above.
    AtMost,
    /// Not below.
    AtLeast,
}

impl Row {
    /// An empty row.
    pub fn new(name: &str, title: &str, how: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            how: how.split_whitespace().collect::<Vec<_>>().join(" "),
            ..Self::default()
        }
    }

    /// Adds a round's value of something.
    pub fn add(&mut self, what: &str, way: &str, value: f64) {
        let same = |f: &&mut Figure| f.what == what && f.way == way;
        match self.figures.iter_mut().find(same) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                what: what.to_owned(),
                way: way.to_owned(),
                values: vec![value],
            }),
        }
    }

    /// Adds a round's value of a goal.
    pub fn goal(&mut self, what: &str, unit: &str, bound: Bound, limit: f64, value: f64) {
        match self.goals.iter_mut().find(|goal| goal.what == what) {
            Some(goal) => goal.values.push(value),
            None => self.goals.push(Goal {
                what: what.to_owned(),
                unit: unit.to_owned(),
                bound,
                limit,
                values: vec![value],
            }),
        }
    }

    /// The last value of something.
    pub fn last(&self, what: &str, way: &str) -> f64 {
        let found = self.figures.iter().find(|f| f.what == what && f.way == way);
        let last = found.and_then(|figure| figure.values.last());
        last.copied().unwrap_or(f64::NAN)
    }
}

impl Goal {
    /// What it came to.
    pub fn seen(&self) -> f64 {
        median(&self.values)
    }

    /// Whether it was met.
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost => self.seen() <= self.limit,
            Bound::AtLeast => self.seen() >= self.limit,
        }
    }
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which so many per cent lie.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * percent / 100.0) as usize;
    let at = at.min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// How much is measured: `QUICK=1` for a look.
#[derive(Clone, Copy)]
pub struct Size {
    /// Whether it is a look only.
    pub quick: bool,
    /// How often everything is done, in turns.
    pub rounds: usize,
}

impl Size {
    /// As the environment says.
    pub fn from_env() -> Self {
        let quick = std::env::var_os("QUICK").is_some();
        let rounds = if quick { 2 } else { 5 };
        Self { quick, rounds }
    }

    /// One or the other.
    pub fn of<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// For how long a rate is measured.
    pub fn span(self) -> Duration {
        Duration::from_millis(self.of(250, 1500))
    }
}

/// Calls made by some callers, each one after the other.
pub struct Calls {
    /// Every call's time, in milliseconds.
    pub times: Vec<f64>,
    /// Calls a second, of all callers.
    pub rate: f64,
}

impl Calls {
    /// The time that so many per cent of the calls did not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.times, percent)
    }
}

/// Has `callers` call for `span`; `make` gives each caller, by its number, what
/// makes one call.
pub async fn callers<C, F>(
    count: usize,
    span: Duration,
    make: impl Fn(usize) -> C,
) -> Result<Calls, Failure>
where
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<(), Failure>> + Send,
{
    let begun = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let mut call = make(number);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < span {
                    let asked = Instant::now();
                    call().await?;
                    times.push(milliseconds(asked.elapsed()));
                }
                Ok::<_, Failure>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok(Calls { times, rate })
}

/// A time as the page shows it.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
