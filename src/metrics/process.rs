//! The server's own process, under the names that every Prometheus client uses.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Timestamp;

/// Where /proc has a process's clock ticks in user mode, counted from after its
/// name: field 14 of `proc_pid_stat(5)`. The next is kernel mode's.
const USER_TICKS: usize = 11;

/// What cannot be read is left out.
pub(super) fn register(registry: &mut Registry, start_time: Timestamp) {
    let start = Gauge::<f64, AtomicU64>::default();
    start.set(start_time.0 as f64 / 1e6);
    registry.register_with_unit(
        "process_start_time",
        "When the process began, in seconds since the Unix epoch",
        Unit::Seconds,
        start,
    );
    if let Some(seconds) = cpu_seconds() {
        registry.register_with_unit(
            "process_cpu",
            "Time of processors used by the server itself, not by its slots",
            Unit::Seconds,
            ConstCounter::new(seconds),
        );
    }
    if let Some(bytes) = resident_bytes() {
        registry.register_with_unit(
            "process_resident_memory",
            "Resident memory of the server itself, not of its slots",
            Unit::Bytes,
            ConstGauge::new(bytes),
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            ConstGauge::new(i64::try_from(open.count()).unwrap_or(i64::MAX)),
        );
    }
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(most) = most.and_then(|most| i64::try_from(most).ok()) {
        registry.register(
            "process_max_fds",
            "The most file descriptors that may be open",
            ConstGauge::new(most),
        );
    }
}

fn resident_bytes() -> Option<i64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(USER_TICKS);
    let user: f64 = ticks.next()?.parse().ok()?;
    let kernel: f64 = ticks.next()?.parse().ok()?;
    Some((user + kernel) / rustix::param::clock_ticks_per_second() as f64)
}
