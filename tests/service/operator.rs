//! What operators and authors see: slots, configuration, shared context.

use claudepool::pb;
use tonic::Code;

use crate::support::{Harness, fields, refused};

#[tokio::test]
async fn every_slot_is_listed_and_can_be_asked_for() {
    let mut server = Harness::new().options(|o| o.slots = 3).start().await;

    let list = pb::ListSlotsRequest::default();
    let slots = server
        .operator
        .list_slots(list)
        .await
        .unwrap()
        .into_inner()
        .slots;

    assert_eq!(slots.len(), 3);
    for slot in slots {
        let get = pb::GetSlotRequest {
            slot_id: slot.slot_id.clone(),
            node_id: slot.node_id,
        };
        let answer = server.operator.get_slot(get).await.unwrap().into_inner();
        assert_eq!(answer.slot.unwrap().slot_id, slot.slot_id);
        let elsewhere = pb::GetSlotRequest {
            slot_id: slot.slot_id,
            node_id: "another".into(),
        };
        let answer = server.operator.get_slot(elsewhere).await;
        refused(answer, Code::NotFound, "SLOT_NOT_FOUND");
    }
}

#[tokio::test]
async fn the_configuration_is_what_the_program_composed() {
    let mut server = Harness::new()
        .server(|o| o.config_toml = Some("token = \"***\"\n".into()))
        .start()
        .await;
    let answer = server
        .operator
        .get_config(pb::GetConfigRequest::default())
        .await;
    assert_eq!(answer.unwrap().into_inner().toml, "token = \"***\"\n");

    let mut server = Harness::new().options(|o| o.slots = 3).start().await;
    let answer = server
        .operator
        .get_config(pb::GetConfigRequest::default())
        .await;
    assert!(answer.unwrap().into_inner().toml.contains("slots = 3"));
}

#[tokio::test]
async fn the_status_counts_tasks_and_slots() {
    let mut server = Harness::new().start().await;
    let task = server.say("x");
    server.finish(task).await;

    let answer = server
        .work
        .get_status(pb::GetStatusRequest::default())
        .await;

    let status = answer.unwrap().into_inner().status.unwrap();
    assert_eq!((status.slots_total, status.slots.len()), (2, 2));
    let counts: Vec<_> = status.tasks.iter().map(|c| (c.state(), c.count)).collect();
    assert_eq!(counts, [(pb::TaskState::Succeeded, 1)]);
}

#[tokio::test]
async fn shared_context_is_set_read_listed_and_deleted() {
    let mut server = Harness::new().start().await;
    for (key, value) in [("b/two", "2"), ("a.one", "1")] {
        let set = pb::SetContextRequest {
            key: key.into(),
            value: value.into(),
        };
        server.context.set_context(set).await.unwrap();
    }
    let get = pb::GetContextRequest {
        key: "a.one".into(),
    };

    let entry = server
        .context
        .get_context(get.clone())
        .await
        .unwrap()
        .into_inner()
        .entry
        .unwrap();
    assert_eq!((entry.key.as_str(), entry.value.as_str()), ("a.one", "1"));
    assert!(entry.update_time.is_some());

    let list = pb::ListContextRequest::default();
    let page = server
        .context
        .list_context(list)
        .await
        .unwrap()
        .into_inner();
    let keys: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(
        (keys.as_slice(), page.revision),
        (["a.one", "b/two"].as_slice(), 2)
    );

    let delete = pb::DeleteContextRequest {
        key: "a.one".into(),
    };
    let answer = server.context.delete_context(delete.clone()).await.unwrap();
    assert_eq!(answer.into_inner().revision, 3);
    let answer = server.context.get_context(get).await;
    refused(answer, Code::NotFound, "CONTEXT_KEY_NOT_FOUND");
    let answer = server.context.delete_context(delete).await;
    refused(answer, Code::NotFound, "CONTEXT_KEY_NOT_FOUND");
}

#[tokio::test]
async fn a_context_key_of_other_characters_is_refused() {
    let mut server = Harness::new().start().await;
    let set = pb::SetContextRequest {
        key: "a b".into(),
        value: String::new(),
    };

    let answer = server.context.set_context(set).await;

    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["key"]);
}
