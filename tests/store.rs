//! Every store does what a store must do.

use std::sync::Arc;

use claudepool::store::memory::Memory;
use claudepool::store::{Store, faulty::Faulty};

claudepool::store_conformance!(memory, async {
    (Arc::new(Memory::new()) as Arc<dyn Store>, ())
});

// Passing calls on must change nothing.
claudepool::store_conformance!(faulty, async {
    let store = Faulty::new(Arc::new(Memory::new()));
    (Arc::new(store) as Arc<dyn Store>, ())
});

#[cfg(feature = "sqlite")]
#[path = "store/sqlite.rs"]
mod sqlite;
