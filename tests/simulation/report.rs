//! Runs seeds on every core, and says what came of it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::checker;
use super::plan::Plan;
use super::world::{On, Ran, run};

/// Operations of a run, at most.
fn length(on: On) -> u64 {
    match on {
        On::Memory => 60,
        #[cfg(feature = "sqlite")]
        On::Sqlite => 30,
    }
}

fn word(on: On) -> &'static str {
    match on {
        On::Memory => "memory",
        #[cfg(feature = "sqlite")]
        On::Sqlite => "sqlite",
    }
}

/// What one seed came to: what is wrong, and what happened.
pub fn one(seed: u64, on: On, traced: bool) -> (Vec<String>, Ran) {
    let plan = Plan::new(seed, length(on));
    let ran = run(plan.clone(), on, traced);
    (checker::check(&plan, &ran.history), ran)
}

/// Runs seeds from `first`; panics with those that failed and how to see them
/// again.
pub fn many(first: u64, count: u64, on: On) {
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let failed: Mutex<BTreeMap<u64, Vec<String>>> = Mutex::default();
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count || failed.lock().expect("whole").len() >= 20 {
                        return;
                    }
                    let ran = std::panic::catch_unwind(|| one(seed, on, false));
                    let (wrong, ran) = match ran {
                        Ok((wrong, ran)) => (wrong, Some(ran)),
                        Err(_) => (vec!["it panicked".to_owned()], None),
                    };
                    for (what, count) in ran.map(|ran| ran.counts).unwrap_or_default() {
                        *counts.lock().expect("whole").entry(what).or_default() += count;
                    }
                    if !wrong.is_empty() {
                        failed.lock().expect("whole").insert(seed, wrong);
                    }
                }
            });
        }
    });
    let took = begun.elapsed();
    let count = count.min(next.into_inner() - first);
    let rate = count as f64 * 60.0 / took.as_secs_f64();
    eprintln!(
        "{count} seeds on {} in {took:.1?}: {rate:.0} a minute",
        word(on)
    );
    for (what, count) in counts.into_inner().expect("whole") {
        eprintln!("{count:>9} {what}");
    }
    let failed = failed.into_inner().expect("whole");
    for (seed, wrong) in &failed {
        eprintln!(
            "seed {seed} failed: SEED={seed} STORE={} TRACE=1 cargo test --test simulation one_seed -- --nocapture",
            word(on)
        );
        for what in wrong.iter().take(5) {
            eprintln!("    {what}");
        }
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
}

/// A number in the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
