//! The rows of the page, in its order.

mod fan_out;
mod fill;
mod growth;
mod latency;
mod memory;
mod no_op;
mod peers_cli;
mod peers_queue;
pub mod postgres;
mod start;
mod started;
mod streams;
mod submit;
mod unary;
pub mod warm;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use super::measure::{Failure, Row, Size};

/// What a row works with.
#[derive(Clone)]
pub struct Place {
    /// Scratch on the disk that is measured.
    pub dir: PathBuf,
    /// How much is measured.
    pub size: Size,
    /// The real CLI, if it is there.
    pub claude: Option<PathBuf>,
}

impl Place {
    /// The real CLI.
    pub fn claude(&self) -> Result<PathBuf, Failure> {
        let missing = "set CLAUDEPOOL_TEST_CLAUDE to the CLI's native program";
        self.claude.clone().ok_or_else(|| missing.into())
    }
}

/// Where tasks work: in no repository, where the CLI would run git six times a task.
fn outside() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("bench-work-").tempdir()
}

/// Measures a row.
type Measure = fn(Place) -> Pin<Box<dyn Future<Output = Result<Row, Failure>> + Send>>;

/// Every row by its name.
pub const ROWS: &[(&str, Measure)] = &[
    ("warm", |place| Box::pin(warm::row(place))),
    ("submit", |place| Box::pin(submit::row(place))),
    ("no-op", |place| Box::pin(no_op::row(place))),
    ("started", |place| Box::pin(started::row(place))),
    ("latency", |place| Box::pin(latency::row(place))),
    ("streams", |place| Box::pin(streams::row(place))),
    ("unary", |place| Box::pin(unary::row(place))),
    ("memory", |place| Box::pin(memory::row(place))),
    ("growth", |place| Box::pin(growth::row(place))),
    ("fan-out", |place| Box::pin(fan_out::row(place))),
    ("start", |place| Box::pin(start::row(place))),
    ("postgres", |place| Box::pin(postgres::queue(place))),
    ("postgres-watch", |place| Box::pin(postgres::watch(place))),
    ("postgres-load", |place| Box::pin(postgres::load(place))),
];

/// Rows that need other people's programs, for `make bench-peers`.
pub const PEERS: &[(&str, Measure)] = &[
    ("peers-cli", |place| Box::pin(peers_cli::row(place))),
    ("peers-queue", |place| Box::pin(peers_queue::row(place))),
];
