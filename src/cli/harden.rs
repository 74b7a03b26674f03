//! What a server's process gives up before it reads any secret.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use super::failure::Failure;

/// No core dump of this process or of any below it holds a secret, and no other
/// process of this user, such as a tool of a task, reads this one's memory or
/// environment.
pub(super) fn harden() -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("core dumps cannot be turned off: {error}"));
    // One byte, not none: a limit of 0 does not hold where the kernel pipes
    // dumps to a program; at 1 it gives up either way (core(5), do_coredump).
    // It cannot be raised above what was set before the start.
    let most = getrlimit(Resource::Core)
        .maximum
        .map_or(1, |most| most.min(1));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(Resource::Core, limit).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}
