//! What Linux tells of processes.

use std::collections::HashMap;
use std::time::Duration;

/// Processor time, user and system: of a process, and of those below it.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Its own.
    pub own: Duration,
    /// Of the processes below it, those that ended included.
    pub below: Duration,
}

/// A line of `/proc/PID/stat`: times in ticks.
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

impl Stat {
    fn read(line: &str) -> Option<Self> {
        // The name may hold blanks: what follows its bracket is regular.
        let fields: Vec<_> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)? + ticks(12)?,
            reaped: ticks(13)? + ticks(14)?,
        })
    }
}

fn all() -> HashMap<u32, Stat> {
    let mut stats = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok())
            && let Ok(stat) = std::fs::read_to_string(entry.path().join("stat"))
            && let Some(stat) = Stat::read(&stat)
        {
            stats.insert(pid, stat);
        }
    }
    stats
}

impl Usage {
    /// Of a process until now.
    pub fn of(pid: u32) -> Self {
        let stats = all();
        let is_below = |mut each: u32| {
            while let Some(stat) = stats.get(&each) {
                if stat.parent == pid {
                    return true;
                }
                each = stat.parent;
            }
            false
        };
        // Linux counts in hundredths of a second on every machine of today.
        let time = |ticks: u64| Duration::from_millis(ticks * 10);
        let (own, reaped) = stats.get(&pid).map_or((0, 0), |s| (s.own, s.reaped));
        let below = stats.iter().filter(|(pid, _)| is_below(**pid));
        let below: u64 = below.map(|(_, stat)| stat.own + stat.reaped).sum();
        Self {
            own: time(own),
            below: time(below + reaped),
        }
    }

    /// Between two moments.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            own: self.own.saturating_sub(earlier.own),
            below: self.below.saturating_sub(earlier.below),
        }
    }
}

/// Processor time of the whole machine until now, its kernel's included and what
/// its host took away left out.
pub fn busy() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = all.split_whitespace().flat_map(str::parse).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at));
    Duration::from_millis(busy.sum::<u64>() * 10)
}

/// Children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let stats = all();
    let found = stats.iter().filter(|(_, stat)| stat.parent == pid);
    found.map(|(pid, _)| *pid).collect()
}

/// A line of `/proc/PID/FILE` that is in kB, in bytes.
fn line(pid: u32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(f64::NAN) * 1024.0
}

/// Resident memory that no file backs, in bytes.
pub fn anonymous(pid: u32) -> f64 {
    line(pid, "status", "RssAnon:")
}

/// Resident memory, in bytes.
pub fn resident(pid: u32) -> f64 {
    line(pid, "status", "VmRSS:")
}

/// Its share of resident memory, what is shared divided among those who share
/// it, in bytes.
pub fn proportional(pid: u32) -> f64 {
    line(pid, "smaps_rollup", "Pss:")
}

/// Processor time of a process and of its children that live, in milliseconds:
/// finer than [`Usage`], which counts hundredths of a second.
pub fn on_processor(pid: u32) -> f64 {
    let nanoseconds = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<f64>().ok())
    };
    let all = children(pid).into_iter().chain([pid]);
    all.filter_map(nanoseconds).sum::<f64>() / 1e6
}

/// Every process below one.
pub fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children(*pid));
        at += 1;
    }
    found
}
