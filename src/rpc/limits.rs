//! What connections and requests may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of connections, calls and requests. They hold before anybody is asked
/// who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most connections at a time; further ones are closed at once. Range: 1 or
    /// more. Default 4,096; fewer where the limit of open files is lower.
    pub connections_max: usize,
    /// Most calls at a time on one connection; further ones wait at the client.
    /// Range: 1 or more. Default 1,024.
    pub streams_max: u32,
    /// Largest headers of a call, in bytes as HTTP/2 counts them; a call with
    /// larger ones is refused. Range: 4 KiB to 1 MiB. Default 16 KiB.
    pub header_bytes_max: u32,
    /// Largest request, in bytes, unpacked if it was compressed. Range: 64 KiB to
    /// 64 MiB. Default 16 MiB. Answers stay below the 4 MiB that every client
    /// takes.
    pub request_bytes_max: usize,
    /// Most bytes of requests that are still being received, over all
    /// connections; further calls are refused with QUEUE_FULL. Range:
    /// `request_bytes_max` or more. Default 256 MiB.
    pub receiving_bytes_max: usize,
    /// Longest time from a call's headers to the end of its request. Range: 1 s
    /// or more. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub receive_timeout: Duration,
    /// Longest time from a connection's beginning to its first call. Range: 1 s
    /// or more. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub first_call_timeout: Duration,
    /// A connection on which something is to be sent and nothing is taken for so
    /// long is cut. Range: 1 s or more. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub stalled_timeout: Duration,
    /// Age, give or take a tenth, at which a connection takes no new calls, so
    /// that clients spread over all servers. Range: 1 s or more. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
    /// From then on until streams that only read end with UNAVAILABLE; clients
    /// resume them by sequence. Calls that a task is attached to go on. Default
    /// 5 min.
    #[serde(with = "humantime_serde")]
    pub connection_age_grace: Duration,
    /// From then on until those end as well; clients come back to their task with
    /// their `request_id`. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub attached_grace: Duration,
    /// Calls of a connection that may be reset before they are looked at; with
    /// more it is closed (rapid reset). Range: 1 or more. Default 100.
    pub resets_max: usize,
    /// Silence of a connection before it is pinged. Range: 1 s or more. Default
    /// 20 s.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// Longest wait for the answer to a ping; then the connection is cut and
    /// its callers have left. Range: 1 s or more. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_max: 1024,
            header_bytes_max: 16 * 1024,
            request_bytes_max: 16 * 1024 * 1024,
            receiving_bytes_max: 256 * 1024 * 1024,
            receive_timeout: Duration::from_secs(60),
            first_call_timeout: Duration::from_secs(60),
            stalled_timeout: Duration::from_secs(300),
            connection_age: Duration::from_secs(30 * 60),
            connection_age_grace: Duration::from_secs(300),
            attached_grace: Duration::from_secs(24 * 3600),
            resets_max: 100,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// What is wrong with the values: each begins with the key.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                found.push(what.to_owned());
            }
        };
        check(
            self.connections_max >= 1,
            "connections_max must be 1 or more",
        );
        check(self.streams_max >= 1, "streams_max must be 1 or more");
        check(
            (4096..=1024 * 1024).contains(&self.header_bytes_max),
            "header_bytes_max must be 4096 to 1048576",
        );
        check(
            (64 * 1024..=64 * 1024 * 1024).contains(&self.request_bytes_max),
            "request_bytes_max must be 65536 to 67108864",
        );
        check(
            self.receiving_bytes_max >= self.request_bytes_max,
            "receiving_bytes_max must be request_bytes_max or more",
        );
        check(self.resets_max >= 1, "resets_max must be 1 or more");
        for (key, value) in [
            ("receive_timeout", self.receive_timeout),
            ("first_call_timeout", self.first_call_timeout),
            ("stalled_timeout", self.stalled_timeout),
            ("connection_age", self.connection_age),
            ("keepalive_interval", self.keepalive_interval),
            ("keepalive_timeout", self.keepalive_timeout),
        ] {
            check(
                value >= Duration::from_secs(1),
                &format!("{key} must be 1s or more"),
            );
        }
        found
    }
}
