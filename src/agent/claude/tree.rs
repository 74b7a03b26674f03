//! Process trees, as `/proc` shows them.
//!
//! Tool processes are in sessions of their own, so a process group does not
//! reach them; what they cannot leave is the list of their ancestors, as long
//! as one of those is a subreaper. Everything here blocks for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, wait, waitpid,
};

/// Name of the environment variable that marks a process's whole tree.
pub(crate) const MARKER: &str = "CLAUDEPOOL_TREE";

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Whether it has ended and is not reaped yet.
    pub zombie: bool,
    /// When it started, in clock ticks since boot. With the pid it names a
    /// process for good, however often the pid is used again.
    pub start: u64,
}

/// Reads one process; `None`: there is none.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in parentheses and may hold anything, even `) R 1 1`: the
/// fields begin after the last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, rest) = (text.find(" (")?, text.rfind(')')?);
    let mut fields = text.get(rest + 1..)?.split_ascii_whitespace();
    Some(Stat {
        pid: text[..head].parse().ok()?,
        zombie: matches!(fields.next()?, "Z" | "X"),
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        session: fields.next()?.parse().ok()?,
        start: fields.nth(15)?.parse().ok()?,
    })
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every living process below `root`, by a look at all processes: also those
/// whose parent changes meanwhile.
pub(crate) fn descendants(root: u32) -> Vec<Stat> {
    let mut by_parent: BTreeMap<u32, Vec<Stat>> = BTreeMap::new();
    for stat in pids().filter_map(stat) {
        by_parent.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in by_parent.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found.retain(|stat| !stat.zombie);
    found
}

/// Every living process below `root`, by the kernel's lists of children: quick,
/// and exact while nothing forks. `None`: this kernel keeps no such lists.
fn listed(root: u32) -> Option<Vec<Stat>> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            match fs::read_to_string(thread.path().join("children")) {
                Ok(list) => {
                    for pid in list.split_ascii_whitespace().flat_map(str::parse) {
                        parents.push(pid);
                        found.extend(stat(pid).filter(|stat| !stat.zombie));
                    }
                }
                Err(_) if thread.path().exists() => return None,
                Err(_) => {}
            }
        }
    }
    Some(found)
}

/// Every living process below `root`.
pub(crate) fn below(root: u32) -> Vec<Stat> {
    listed(root).unwrap_or_else(|| descendants(root))
}

/// Resident memory of `root` and all below it, in bytes.
pub(crate) fn memory_bytes(root: u32) -> u64 {
    let page = rustix::param::page_size() as u64;
    let resident = |pid: u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let pids = below(root).into_iter().map(|stat| stat.pid);
    pids.chain([root]).filter_map(resident).sum::<u64>() * page
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already, or not ours to signal: the next look tells.
        let _ = kill_process(pid, signal);
    }
}

/// Stops all that `list` finds until it finds nothing new, then kills them: a
/// stopped process cannot fork away from the kill.
fn stop_then_kill(list: impl Fn() -> Vec<u32>) -> BTreeSet<u32> {
    let mut stopped = BTreeSet::new();
    // Each round stops the forks of the one before; the bound is for a tree that
    // we are not allowed to stop.
    for _ in 0..64 {
        let new: Vec<u32> = list()
            .into_iter()
            .filter(|pid| !stopped.contains(pid))
            .collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            signal(pid, Signal::STOP);
            stopped.insert(pid);
        }
    }
    for pid in &stopped {
        signal(*pid, Signal::KILL);
    }
    stopped
}

/// Kills everything below this process and reaps it, until the kernel says that
/// there are no children: a look at all processes that finds none proves nothing,
/// since one that forks and ends all the time may be in none of the two while it
/// is looked for. Only for a process whose children are all its own to reap.
pub(crate) fn end_all_below_us(mut reaped: impl FnMut(Pid, WaitStatus)) {
    let me = std::process::id();
    loop {
        let killed = stop_then_kill(|| descendants(me).iter().map(|stat| stat.pid).collect());
        // Some of the killed are our own children, so this returns; the others
        // become ours as their parents go.
        let mut options = match killed.is_empty() {
            true => WaitOptions::NOHANG,
            false => WaitOptions::empty(),
        };
        loop {
            match wait(options) {
                Ok(Some((pid, status))) => reaped(pid, status),
                Ok(None) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            options = WaitOptions::NOHANG;
        }
    }
}

/// The living processes whose environment carries one of `markers`.
fn marked(markers: &[String]) -> Vec<u32> {
    let wanted: Vec<String> = markers.iter().map(|m| format!("{MARKER}={m}")).collect();
    let carries = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|variable| wanted.iter().any(|w| w.as_bytes() == variable))
        })
    };
    let me = std::process::id();
    pids().filter(|pid| *pid != me).filter(carries).collect()
}

/// What came to us when a shim of ours was killed that had started at `since`,
/// without the marker: a child in a session of its own, which none of ours is
/// but a shim.
fn orphans(since: u64) -> Vec<u32> {
    let me = std::process::id();
    let Some(ours) = stat(me) else {
        return Vec::new();
    };
    let program = |pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let is_shim = |pid| {
        let marked = fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            let mut variables = environ.split(|byte| *byte == 0);
            variables.any(|variable| variable.starts_with(MARKER.as_bytes()))
        });
        // One that is being started is this program for a moment.
        marked || program(pid) == program(me)
    };
    let adopted = pids().filter_map(stat).filter(|stat| {
        stat.parent == me && !stat.zombie && stat.session != ours.session && stat.start >= since
    });
    let mut found = Vec::new();
    for root in adopted.map(|stat| stat.pid).filter(|pid| !is_shim(*pid)) {
        found.push(root);
        found.extend(descendants(root).iter().map(|stat| stat.pid));
    }
    found
}

/// Kills every process that carries one of `markers` and, where it has become
/// our child, reaps it by its pid. Returns how many there were.
pub(crate) fn sweep(markers: &[String]) -> usize {
    kill_all(|| marked(markers))
}

/// The same for the tree of a shim of ours that was killed, which had started at
/// `since`: also what has shed the marker.
pub(crate) fn sweep_after(marker: String, since: u64) -> usize {
    let markers = [marker];
    kill_all(|| {
        let mut left = marked(&markers);
        left.extend(orphans(since));
        left
    })
}

fn kill_all(list: impl Fn() -> Vec<u32>) -> usize {
    let mut swept = 0;
    // A process killed is gone at once; the bound is for one that cannot be.
    for _ in 0..16 {
        let handles: Vec<_> = list()
            .into_iter()
            .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
            .collect();
        if handles.is_empty() {
            break;
        }
        swept += stop_then_kill(&list).len();
        for (pid, handle) in handles {
            await_end(&handle, Duration::from_secs(1));
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
    swept
}

/// Waits until the process behind a pidfd has ended; false: not in time.
pub(crate) fn await_end(handle: &std::os::fd::OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Waits until process `pid` that started at `start` has ended, then kills it.
/// Returns whether it ended by itself.
pub(crate) fn outlast(pid: u32, start: u64, limit: Duration) -> bool {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return true;
    };
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else {
        return true;
    };
    // Compared after the handle is open: the handle stays with this process.
    if stat(pid).is_none_or(|stat| stat.start != start || stat.zombie) {
        return true;
    }
    if await_end(&handle, limit) {
        return true;
    }
    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
    await_end(&handle, Duration::from_secs(5));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_does_not_confuse_the_reading() {
        let text = "42 (a) R 1 1 (b)) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 9876 0 0";

        let stat = parse_stat(text).unwrap();

        assert_eq!(
            stat,
            Stat {
                pid: 42,
                parent: 7,
                group: 42,
                session: 42,
                zombie: false,
                start: 9876
            }
        );
    }

    #[test]
    fn this_process_is_found_in_proc() {
        let me = std::process::id();

        assert_eq!(stat(me).unwrap().pid, me);
        assert!(memory_bytes(me) > 0);
    }
}
