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

claudepool::cluster_conformance!(memory_of_nodes, async {
    let nodes = Memory::for_nodes(3).into_iter();
    let nodes = nodes.map(|node| Arc::new(node) as Arc<dyn Store>);
    (nodes.collect(), ())
});

#[cfg(feature = "sqlite")]
#[path = "store/sqlite.rs"]
mod sqlite;

#[path = "store/statements.rs"]
mod statements;

#[cfg(feature = "sqlite")]
#[path = "store/equivalence.rs"]
mod equivalence;

#[cfg(feature = "sqlite")]
#[path = "store/world.rs"]
mod world;

#[tokio::test]
async fn a_url_names_a_store() {
    assert!(claudepool::store::open("memory").await.is_ok());
    for (url, sentence) in [
        ("postgres://user:secret@host/db?colour=red", "colour"),
        ("mysql://user:secret@host/db", "names no store"),
        ("sqlite", "names no store"),
        ("sqlite:", "needs the path of a file"),
        ("sqlite::memory:", "say `memory`"),
    ] {
        let Err(refused) = claudepool::store::open(url).await else {
            panic!("{url} names nothing that can be opened");
        };
        let said = refused.to_string();
        assert!(
            said.contains(sentence) && !said.contains("secret"),
            "{said}"
        );
    }
}
