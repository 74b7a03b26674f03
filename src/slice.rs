//! How soon a thread of ours runs when the processors are busy.
#![allow(unsafe_code)] // Two system calls that no library wraps safely.

use std::io;
use std::mem::size_of;

/// The shortest slice that Linux gives to a thread which asks for one, in
/// nanoseconds (`sched_setattr(2)`, since 6.12).
const SHORTEST: u64 = 100_000;

/// Has the calling thread ask for short slices, for as long as it lives; what it
/// starts does not inherit that.
///
/// The agents' processes take all the processors there are. A thread that wakes
/// waits for one of them to use up its slice, which is some milliseconds, unless
/// its own slice is shorter; and a task takes several changes of threads. It gets
/// no larger part of the processors by that, and needs no right.
///
/// To be called by each thread of a runtime that a server or a
/// [`Pool`](crate::pool::Pool) runs on:
///
/// ```
/// let runtime = tokio::runtime::Builder::new_multi_thread()
///     .enable_all()
///     .on_thread_start(|| {
///         // Where it cannot be had, threads only wait longer.
///         let _ = claudepool::slice::shorten();
///     })
///     .build()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Of the kernel: it may be forbidden, or not be known. Before Linux 6.12 it
/// succeeds without effect.
pub fn shorten() -> io::Result<()> {
    let mut attributes = read()?;
    let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(|policy| policy.cast_unsigned());
    if !fair.contains(&attributes.sched_policy) {
        // An operator chose another; slices mean something else there.
        return Ok(());
    }
    attributes.sched_runtime = SHORTEST;
    attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: the kernel reads as many bytes as the structure says it has, and
    // changes nothing but how this thread is scheduled.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    answer(done)
}

/// How the calling thread is scheduled.
fn read() -> io::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(u32::MAX);
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes, which is what there is.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    answer(done).map(|()| attributes)
}

fn answer(done: libc::c_long) -> io::Result<()> {
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_short_slices_and_what_it_starts_does_not() {
        std::thread::spawn(|| {
            let before = read().expect("told");
            shorten().expect("may");
            let after = read().expect("told");
            let child = std::thread::spawn(|| read().expect("told"));
            let child = child.join().expect("ran");

            assert_eq!(after.sched_nice, before.sched_nice);
            assert_eq!(child.sched_runtime, before.sched_runtime);
            // Kernels before 6.12 know no slices of a thread's own.
            if before.sched_runtime != 0 {
                assert_eq!(after.sched_runtime, SHORTEST);
            }
        })
        .join()
        .expect("passed");
    }
}
