use super::*;
use prost_types::Duration as Wire;

const fn wire(seconds: i64, nanos: i32) -> Wire {
    Wire { seconds, nanos }
}

fn fields<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    match result.expect_err("refused") {
        Error::Invalid(wrong) => wrong.into_iter().map(|v| v.field).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_duration_outside_its_range_is_named() {
    let task_id = TaskId::new().to_string();
    for bad in [
        wire(-1, 0),
        wire(0, -1),
        wire(0, 1_000_000_000),
        wire(0, 999_999_999),
        wire(60, 1),
        wire(i64::MAX, 0),
    ] {
        let request = pb::WatchTaskRequest {
            task_id: task_id.clone(),
            heartbeat_interval: Some(bad),
            ..Default::default()
        };
        assert_eq!(
            fields(watch_task(&request)),
            ["heartbeat_interval"],
            "{bad:?}"
        );
    }
    for bad in [wire(3600, 1), wire(-1, 999_999_999)] {
        let request = pb::GetResultRequest {
            task_id: task_id.clone(),
            wait: Some(bad),
        };
        assert_eq!(fields(get_result(&request)), ["wait"]);
    }
    let request = pb::DrainRequest {
        deadline: Some(wire(86_401, 0)),
        ..Default::default()
    };
    assert_eq!(fields(drain_deadline(&request)), ["deadline"]);
}

#[test]
fn the_ends_of_a_range_belong_to_it() {
    let task_id = TaskId::new().to_string();
    for (good, expected) in [
        (None, 15_000),
        (Some(wire(1, 0)), 1_000),
        (Some(wire(60, 0)), 60_000),
    ] {
        let request = pb::WatchTaskRequest {
            task_id: task_id.clone(),
            heartbeat_interval: good,
            ..Default::default()
        };
        let (_, _, interval) = watch_task(&request).expect("in range");
        assert_eq!(interval, Duration::from_millis(expected));
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let request = pb::RunStreamRequest {
        request_id: "x".into(),
        heartbeat_interval: Some(wire(0, 0)),
        ..Default::default()
    };
    assert_eq!(
        fields(run_stream(request)),
        ["task", "request_id", "heartbeat_interval"]
    );
}

#[test]
fn a_text_that_is_no_id_is_refused_and_an_empty_request_id_is_none() {
    assert_eq!(fields(task_id("")), ["task_id"]);
    assert_eq!(fields(task_id("7")), ["task_id"]);
    let request = pb::SubmitRequest {
        task: Some(pb::TaskSpec::default()),
        request_id: String::new(),
    };
    assert_eq!(submit(request).expect("valid").request, None);
    assert_eq!(
        fields(cancel(&pb::CancelRequest { target: None })),
        ["target"]
    );
    let group = pb::cancel_request::Target::GroupId("g".into());
    assert_eq!(
        fields(cancel(&pb::CancelRequest {
            target: Some(group)
        })),
        ["group_id"]
    );
}

#[test]
fn a_list_names_each_wrong_field_of_its_filter() {
    let request = pb::ListTasksRequest {
        filter: Some(pb::TaskFilter {
            states: vec![1, 0, 99],
            created_from: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: -1,
            }),
            group_id: "g".into(),
            parent_task_id: "p".into(),
            ..Default::default()
        }),
        page_size: -1,
        view: 9,
        ..Default::default()
    };
    assert_eq!(
        fields(list_tasks(request)),
        [
            "filter.states[1]",
            "filter.states[2]",
            "filter.created_from",
            "filter.group_id",
            "filter.parent_task_id",
            "page_size",
            "view",
        ]
    );
}

#[test]
fn a_page_is_fifty_unless_asked_and_never_above_a_thousand() {
    for (asked, given) in [(0, 50), (7, 7), (1_000, 1_000), (i32::MAX, 1_000)] {
        assert_eq!(page_size(asked).expect("valid"), given);
    }
    assert_eq!(fields(page_size(-1)), ["page_size"]);
}

#[test]
fn a_fan_out_is_one_to_ten_thousand_tasks() {
    for n in [0, 10_001] {
        let request = pb::FanOutRequest {
            tasks: vec![pb::TaskSpec::default(); n],
            ..Default::default()
        };
        assert_eq!(fields(fan_out(request)), ["tasks"]);
    }
}

#[test]
fn a_number_of_slots_is_no_less_than_it_can_be() {
    for count in [0, -1, i32::MIN] {
        let up = pb::ScaleUpRequest {
            count,
            ..Default::default()
        };
        assert_eq!(fields(scale_up(&up)), ["count"]);
        let down = pb::ScaleDownRequest {
            count,
            timeout: Some(wire(3601, 0)),
            request_id: "x".into(),
            ..Default::default()
        };
        assert_eq!(
            fields(scale_down(&down)),
            ["count", "request_id", "timeout"]
        );
    }
    let to = pb::SetTargetSlotsRequest {
        target: -1,
        ..Default::default()
    };
    assert_eq!(fields(set_target_slots(&to)), ["target"]);
}

#[test]
fn a_budget_is_no_debt_and_a_reason_no_essay() {
    let budget = |budget_microdollars| pb::SetBudgetRequest {
        budget_microdollars,
    };
    assert_eq!(
        fields(set_budget(&budget(Some(-1)))),
        ["budget_microdollars"]
    );
    assert_eq!(set_budget(&budget(None)).expect("no limit"), None);
    let pause = |n| {
        pause(pb::PauseRequest {
            reason: "x".repeat(n),
        })
    };
    assert!(pause(1024).is_ok());
    assert_eq!(fields(pause(1025)), ["reason"]);
}

#[test]
fn context_pages_join_to_the_whole() {
    let entry = |i: u32| {
        let value = ContextValue {
            value: i.to_string(),
            update_time: Timestamp(0),
        };
        (format!("k{i}"), value)
    };
    let context = Context {
        revision: 9,
        entries: (0..5).map(entry).collect(),
    };
    let (mut keys, mut token) = (Vec::new(), String::new());
    loop {
        let page = context_page(&context, 2, &token);
        assert_eq!(page.revision, 9);
        keys.extend(page.entries.into_iter().map(|e| e.key));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4"]);
}
