//! Whether a server with a long past is as quick as a new one.

use std::sync::Arc;
use std::time::Instant;

use claudepool::clock::Clock;
use claudepool::id::{NodeId, SlotId};
use claudepool::pb::{StateCount, TaskState};
use claudepool::pool::{Options, Pool};
use claudepool::store::{self, ClaimRequest, Filter, Store};
use claudepool::task::Level;

use super::Place;
use super::fill::database;
use crate::agent::Talker;
use crate::measure::{Bound, Failure, Row, median, milliseconds};

/// A pool with a past.
struct Past {
    name: String,
    /// Tasks that wait, at the least.
    queued: i64,
    pool: Pool,
    store: Arc<dyn Store>,
}

const OPERATIONS: [&str; 4] = ["claim", "Submit", "GetStatus", "ListTasks"];

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "growth",
        "With a long past",
        "The same operations on servers whose stores hold more and more tasks, a call each by \
         turns: claim is the store's, the others are the pool's, without the wire. The first \
         page of ListTasks has 50 tasks. p50 of each round; goals compare within a round.",
    );
    let (small, middle, large, queue) = place.size.of(
        (1_000, 10_000, 100_000, 10_000),
        (1_000, 100_000, 1_000_000, 100_000),
    );
    let mut pasts = Vec::new();
    for (finished, queued) in [(small, 0), (middle, 0), (large, 0), (small, queue)] {
        let path = database(&place.dir, finished, queued).await?;
        let store = store::open(&format!("sqlite:{}", path.display())).await?;
        let options = Options {
            slots: 1,
            queue_max: 10_000_000,
            working_dir: place.dir.clone(),
            ..Options::default()
        };
        let builder = Pool::builder(Talker).store(Arc::clone(&store));
        let pool = builder.options(options).build().await?;
        let name = match queued {
            0 => format!("{finished} finished"),
            _ => format!("{finished} finished, {queued} queued"),
        };
        // Its slot is never idle again.
        pool.submit("hang").await?;
        while pool.status().await?.slots_busy < 1 {
            tokio::task::yield_now().await;
        }
        pasts.push(Past {
            name,
            queued: queued as i64,
            pool,
            store,
        });
    }
    let calls = place.size.of(10, 200);
    for _ in 0..=place.size.rounds {
        for operation in OPERATIONS {
            let mut times = vec![Vec::new(); pasts.len()];
            for _ in 0..calls {
                // A call each: whatever the machine does besides befalls all.
                for (past, times) in pasts.iter().zip(&mut times) {
                    if operation == "claim" {
                        past.pool.submit("hang").await?;
                    }
                    let begun = Instant::now();
                    past.operate(operation).await?;
                    times.push(milliseconds(begun.elapsed()));
                }
            }
            for (past, times) in pasts.iter().zip(&times) {
                row.add(&format!("{operation}, ms"), &past.name, median(times));
            }
        }
    }
    // The first round filled caches.
    for figure in &mut row.figures {
        figure.values.remove(0);
    }
    let compared = [(&pasts[2].name, 1.2), (&pasts[3].name, 1.2)];
    for (name, limit) in compared {
        for operation in OPERATIONS {
            let what = format!("{operation}, ms");
            let of = |way: &str| {
                let mut figures = row.figures.iter();
                let figure = figures.find(|f| f.what == what && f.way == way);
                figure.map(|f| f.values.clone()).unwrap_or_default()
            };
            let (now, first) = (of(name), of(&pasts[0].name));
            for (now, first) in now.into_iter().zip(first) {
                let goal = format!("{operation}: {name} / {}", pasts[0].name);
                row.goal(&goal, "", Bound::AtMost, limit, now / first);
            }
        }
    }
    for past in pasts {
        // What runs beside is measured too.
        let status = past.pool.status().await?;
        let of_queued = |count: &&StateCount| count.state() == TaskState::Queued;
        let waiting = status.tasks.iter().find(of_queued);
        if waiting.map_or(0, |count| count.count) + 1 < past.queued {
            return Err(format!("{}: the queue is shorter than it was", past.name).into());
        }
        past.pool.shutdown().await;
    }
    Ok(row)
}

impl Past {
    async fn operate(&self, operation: &str) -> Result<(), Failure> {
        match operation {
            "claim" => {
                let request = ClaimRequest {
                    slots: vec![SlotId::from("bench")],
                    keeps: Default::default(),
                    node: NodeId::from("bench"),
                    labels: Default::default(),
                    level: Level::OWN,
                    lease: None,
                    context_revision: 0,
                    now: Clock::system().now(),
                };
                let claimed = self.store.claim(request).await?;
                if claimed.tasks.len() != 1 {
                    return Err("nothing was claimed".into());
                }
            }
            "Submit" => drop(self.pool.submit("hang").await?),
            "GetStatus" => drop(self.pool.status().await?),
            _ => drop(self.pool.tasks(Filter::default(), 0, "", false).await?),
        }
        Ok(())
    }
}
