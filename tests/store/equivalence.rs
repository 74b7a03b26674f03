//! Whatever is done to them, a store in memory and one in a file show the same.

use std::sync::Arc;

use claudepool::store::Store;
use claudepool::store::sqlite::Sqlite;
use proptest::prelude::*;
use tempfile::TempDir;

use super::world::{same, step};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_sqlite_show_the_same(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let directory = TempDir::new().expect("a directory");
            let path = directory.path().join("pool.db");
            let sqlite = Arc::new(Sqlite::open(&path).await.expect("it opens"));
            same(Arc::clone(&sqlite) as Arc<dyn Store>, steps).await;
            sqlite.check_sums().await.expect("the sums agree");
        });
    }
}
