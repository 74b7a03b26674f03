//! A simulation: random work, faults and crashes on simulated time, all of it
//! drawn from a seed, and a checker that reads what happened.
//!
//! `SEED=7 STORE=sqlite TRACE=1 cargo test --test simulation one_seed -- --nocapture`
//! repeats one run and prints what happened; `make simulation SEEDS=100000` runs
//! more of them.

#![allow(clippy::unwrap_used)]

mod agent;
mod checker;
mod history;
mod ops;
mod plan;
mod report;
mod rng;
mod shared;
mod specs;
mod store;
mod world;

use report::{many, number, one};
use world::On;

/// Where a run of many begins.
fn first() -> u64 {
    number("FIRST").unwrap_or(0)
}

#[test]
fn every_promise_holds_whatever_fails_in_memory() {
    many(first(), number("SEEDS").unwrap_or(2_000), On::Memory);
}

#[cfg(feature = "sqlite")]
#[test]
fn every_promise_holds_whatever_fails_on_sqlite() {
    many(
        first(),
        number("SEEDS").map_or(200, |seeds| seeds / 10),
        On::Sqlite,
    );
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..50 {
        let (_, first) = one(seed, On::Memory, true);
        let (_, second) = one(seed, On::Memory, true);
        let pairs = first.trace.iter().zip(&second.trace).enumerate();
        for (line, (first, second)) in pairs {
            assert_eq!(first, second, "seed {seed}, line {line}");
        }
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
}

/// The run that `SEED` names.
#[test]
fn one_seed() {
    let Some(seed) = number("SEED") else { return };
    #[cfg(feature = "sqlite")]
    let on = match std::env::var("STORE").as_deref() {
        Ok("sqlite") => On::Sqlite,
        _ => On::Memory,
    };
    #[cfg(not(feature = "sqlite"))]
    let on = On::Memory;
    let (wrong, ran) = one(seed, on, std::env::var("TRACE").is_ok());
    for line in &ran.trace {
        eprintln!("{line}");
    }
    eprintln!("seed {seed}: trace {:016x}", ran.trace_hash);
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
}
