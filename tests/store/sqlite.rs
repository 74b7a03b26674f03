//! What only a store in a file can do wrong.

use std::path::Path;
use std::sync::Arc;

use claudepool::store::Store;
use claudepool::store::sqlite::Sqlite;
use tempfile::TempDir;

/// A store in a directory that is gone with the test.
async fn in_a_new_directory() -> (Arc<dyn Store>, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let store = open(&directory.path().join("pool.db")).await;
    (Arc::new(store), directory)
}

async fn open(path: &Path) -> Sqlite {
    Sqlite::open(path).await.expect("it opens")
}

claudepool::store_conformance!(conformance, in_a_new_directory());
