//! How many files the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rpc::Limits;

/// Files for everything that is no connection: the store, the pipes of the
/// processes, the system's own.
const OTHERS: u64 = 256;

/// Raises the limit to what the system allows.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Limits that leave files for what is no connection.
pub(super) fn within(limits: Limits) -> Limits {
    cut(limits, getrlimit(Resource::Nofile).current)
}

fn cut(mut limits: Limits, files: Option<u64>) -> Limits {
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(OTHERS).max(1));
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if limits.connections_max > room {
        tracing::warn!(
            connections_max = room,
            "the limit of open files allows fewer connections than the configuration"
        );
        limits.connections_max = room;
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        for (files, connections) in [
            (None, 4096),
            (Some(100_000), 4096),
            (Some(1024), 768),
            (Some(9), 1),
        ] {
            assert_eq!(cut(Limits::default(), files).connections_max, connections);
        }
    }
}
