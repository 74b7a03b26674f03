//! Whatever is done to them, a store in memory and one on PostgreSQL show the
//! same.

use std::sync::Arc;

use claudepool::store::Store;
use proptest::prelude::*;

use crate::server::SHARED;
use crate::world::{same, step};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_postgres_show_the_same(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (store, _) = SHARED.store().await;
            let store = Arc::new(store);
            same(Arc::clone(&store) as Arc<dyn Store>, steps).await;
            store.check_sums().await.unwrap();
            store.close().await;
        });
    }
}
