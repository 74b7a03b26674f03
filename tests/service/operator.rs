//! What operators and authors see: slots, configuration, shared context.

use claudepool::pb;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Harness, fields, refused, request_id};

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

fn target(target: i32) -> pb::SetTargetSlotsRequest {
    pb::SetTargetSlotsRequest {
        target,
        ..Default::default()
    }
}

#[tokio::test]
async fn slots_are_added_and_removed_within_their_bounds() {
    let mut server = Harness::new().options(|o| o.max_slots = 4).start().await;
    let up = pb::ScaleUpRequest {
        count: 2,
        request_id: request_id(),
        ..Default::default()
    };
    // The second time it is a repeat.
    for _ in 0..2 {
        let answer = server
            .operator
            .scale_up(up.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!((answer.target, answer.total, answer.retiring), (4, 4, 0));
    }
    let more = pb::ScaleUpRequest {
        count: 1,
        ..Default::default()
    };
    let answer = server.operator.scale_up(more).await;
    refused(answer, Code::FailedPrecondition, "SLOT_BOUNDS");

    let down = pb::ScaleDownRequest {
        count: 1,
        ..Default::default()
    };
    let answer = server.operator.scale_down(down).await.unwrap().into_inner();
    assert_eq!((answer.target, answer.total, answer.retiring), (3, 3, 0));

    for asked in [0, 5] {
        let answer = server.operator.set_target_slots(target(asked)).await;
        refused(answer, Code::OutOfRange, "SLOT_BOUNDS");
    }
    let answer = server.operator.set_target_slots(target(1)).await;
    assert_eq!(answer.unwrap().into_inner().total, 1);
}

#[tokio::test]
async fn a_paused_pool_takes_no_work_and_says_why() {
    let mut server = Harness::new().start().await;
    let pause = pb::PauseRequest {
        reason: "lunch".into(),
    };
    server.operator.pause(pause).await.unwrap();

    let submit = pb::SubmitRequest {
        task: Some(server.say("x")),
        ..Default::default()
    };
    let answer = server.work.submit(submit.clone()).await;
    refused(answer, Code::Unavailable, "PAUSED");
    let answer = server
        .work
        .get_status(pb::GetStatusRequest::default())
        .await;
    let status = answer.unwrap().into_inner().status.unwrap();
    assert_eq!(
        (status.paused, status.pause_reason.as_str()),
        (true, "lunch")
    );

    server.operator.resume(pb::ResumeRequest {}).await.unwrap();
    server.work.submit(submit).await.unwrap();
}

#[tokio::test]
async fn a_budget_that_does_not_cover_a_task_refuses_it() {
    let mut server = Harness::new().start().await;
    let none = pb::SetBudgetRequest {
        budget_microdollars: Some(0),
    };
    let answer = server.operator.set_budget(none).await.unwrap().into_inner();
    assert_eq!(answer.budget_microdollars, Some(0));

    let submit = pb::SubmitRequest {
        task: Some(server.say("x")),
        ..Default::default()
    };
    let answer = server.work.submit(submit.clone()).await;
    let status = refused(answer, Code::ResourceExhausted, "BUDGET_EXHAUSTED");
    assert!(status.get_details_quota_failure().is_some());

    let unlimited = pb::SetBudgetRequest::default();
    let answer = server
        .operator
        .set_budget(unlimited)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.budget_microdollars, None);
    server.work.submit(submit).await.unwrap();
}

#[tokio::test]
async fn a_slot_is_restarted_and_the_supervisor_stopped_and_started() {
    let mut server = Harness::new().start().await;
    let list = pb::ListSlotsRequest::default();
    let slots = server
        .operator
        .list_slots(list)
        .await
        .unwrap()
        .into_inner()
        .slots;
    let restart = |slot_id: &str| pb::RestartSlotRequest {
        slot_id: slot_id.into(),
        ..Default::default()
    };
    let answer = server
        .operator
        .restart_slot(restart(&slots[0].slot_id))
        .await;
    assert_eq!(
        answer.unwrap().into_inner().slot.unwrap().slot_id,
        slots[0].slot_id
    );
    let answer = server.operator.restart_slot(restart("slot-99")).await;
    refused(answer, Code::NotFound, "SLOT_NOT_FOUND");

    let stop = pb::StopSupervisorRequest::default();
    server.operator.stop_supervisor(stop).await.unwrap();
    let answer = server
        .work
        .get_status(pb::GetStatusRequest::default())
        .await;
    assert!(!answer.unwrap().into_inner().status.unwrap().supervisor);
    let start = pb::StartSupervisorRequest::default();
    server.operator.start_supervisor(start).await.unwrap();
    let answer = server
        .work
        .get_status(pb::GetStatusRequest::default())
        .await;
    assert!(answer.unwrap().into_inner().status.unwrap().supervisor);
}

#[tokio::test]
async fn another_server_cannot_be_asked_here() {
    let mut server = Harness::new().start().await;
    let elsewhere = pb::GetConfigRequest {
        node_id: "another".into(),
    };

    let answer = server.operator.get_config(elsewhere).await;

    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["node_id"]);
}
