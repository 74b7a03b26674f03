//! Skills and workflows.

use std::sync::Arc;

use bytes::Bytes;

use super::fixture::at;
use crate::store::{CatalogEntry, CatalogKind, Store};

const MANY: usize = 1_000;

fn entry(name: &str, text: &'static str, time: i64) -> CatalogEntry {
    CatalogEntry {
        name: name.to_owned(),
        bytes: Bytes::from_static(text.as_bytes()),
        update_time: at(time),
    }
}

async fn put(store: &dyn Store, kind: CatalogKind, entry: CatalogEntry) -> bool {
    store.put_catalog(kind, entry, MANY).await.expect("put")
}

pub(super) async fn an_entry_is_put_replaced_and_deleted(store: Arc<dyn Store>) {
    let kind = CatalogKind::Skill;
    assert_eq!(store.catalog_entry(kind, "a").await.expect("read"), None);
    assert!(!store.delete_catalog(kind, "a").await.expect("delete"));

    assert!(put(&*store, kind, entry("a", "one", 1)).await);
    assert!(put(&*store, kind, entry("a", "two", 2)).await);

    let found = store.catalog_entry(kind, "a").await.expect("read");
    assert_eq!(found, Some(entry("a", "two", 2)));
    assert!(store.delete_catalog(kind, "a").await.expect("delete"));
    assert_eq!(store.catalog_entry(kind, "a").await.expect("read"), None);
}

pub(super) async fn skills_and_workflows_share_no_names(store: Arc<dyn Store>) {
    put(&*store, CatalogKind::Skill, entry("a", "skill", 1)).await;
    put(&*store, CatalogKind::Workflow, entry("a", "workflow", 1)).await;

    store
        .delete_catalog(CatalogKind::Skill, "a")
        .await
        .expect("delete");

    let left = store.catalog(CatalogKind::Workflow, "", usize::MAX).await;
    assert_eq!(left.expect("read"), [entry("a", "workflow", 1)]);
    let none = store.catalog(CatalogKind::Skill, "", usize::MAX).await;
    assert_eq!(none.expect("read"), []);
}

pub(super) async fn pages_of_the_catalog_go_by_name(store: Arc<dyn Store>) {
    let kind = CatalogKind::Skill;
    for name in ["b", "a-b", "c", "a", "a0"] {
        put(&*store, kind, entry(name, "12345", 1)).await;
    }
    put(&*store, CatalogKind::Workflow, entry("a1", "12345", 1)).await;

    let names = |after: &'static str, bytes_max| {
        let store = Arc::clone(&store);
        async move {
            let page = store.catalog(kind, after, bytes_max).await.expect("read");
            page.into_iter().map(|e| e.name).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("", usize::MAX).await, ["a", "a-b", "a0", "b", "c"]);
    assert_eq!(names("a-b", 10).await, ["a0", "b"]);
    assert_eq!(names("a-b", 9).await, ["a0"]);
    assert_eq!(names("b", 0).await, ["c"], "at least one");
    assert_eq!(names("c", usize::MAX).await, [""; 0]);
}

pub(super) async fn no_more_entries_are_made_than_allowed(store: Arc<dyn Store>) {
    let kind = CatalogKind::Workflow;
    put(&*store, CatalogKind::Skill, entry("x", "other", 1)).await;
    for name in ["a", "b"] {
        let made = store.put_catalog(kind, entry(name, "one", 1), 2).await;
        assert!(made.expect("put"));
    }
    let third = store.put_catalog(kind, entry("c", "one", 1), 2).await;
    assert!(!third.expect("put"));
    let replaced = store.put_catalog(kind, entry("a", "two", 2), 2).await;
    assert!(replaced.expect("put"));
    let kept = store.catalog(kind, "", usize::MAX).await.expect("read");
    assert_eq!(kept, [entry("a", "two", 2), entry("b", "one", 1)]);
}
