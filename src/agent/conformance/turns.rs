//! Turns: answers, conversations, costs, interrupts, dials.

use super::*;
use crate::agent::AgentError;
use crate::money::Microdollars;
use crate::pb::{Effort, PermissionMode};

/// A turn tells its start, its answer, its message and its end.
pub async fn a_turn_answers(kit: &dyn Kit) {
    let mut session = ready(kit).await;

    let played = succeed(&mut *session, "::echo hello").await;

    assert_eq!(played.end.output, "hello");
    assert_eq!(played.end.turns, 1);
    let (model, mode, _) = played.in_force();
    assert_eq!((model, mode), (played.end.model.as_str(), "dontAsk"));
    let messages = played.told.iter();
    let is_message = |o: &&Observation| matches!(o, Observation::Message { stop_reason, .. } if stop_reason == "end_turn");
    assert_eq!(messages.filter(is_message).count(), 1, "{:?}", played.told);
    session.end(GRACE).await;
}

/// What streams is the answer: nothing twice, nothing lost.
pub async fn deltas_joined_are_the_output(kit: &dyn Kit) {
    let mut session = ready(kit).await;

    for prompt in ["::echo hello é\u{1F600}", "::text 300000", "::slow 20 1"] {
        let played = succeed(&mut *session, prompt).await;
        assert_eq!(played.text(), played.end.output, "{prompt}");
        assert!(!played.end.output.is_empty());
    }
    session.end(GRACE).await;
}

/// A second turn sees the first.
pub async fn two_turns_share_a_conversation(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let first = succeed(&mut *session, "::echo remember-7351").await;

    let second = succeed(&mut *session, "::echo again").await;

    assert_eq!(first.end.session_id, second.end.session_id);
    assert!(kit.shown(&mut *session).await.contains("remember-7351"));
    session.end(GRACE).await;
}

/// After a reset the model is shown nothing of before, and the process is the
/// same.
pub async fn a_reset_forgets(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let pid = session.pid();
    let first = succeed(&mut *session, "::echo secret-9182").await;

    within("the reset", session.reset())
        .await
        .expect("the process is clean");

    let shown = kit.shown(&mut *session).await;
    assert!(!shown.contains("secret-9182"), "{shown}");
    let second = succeed(&mut *session, "::echo other").await;
    assert_ne!(first.end.session_id, second.end.session_id);
    assert_eq!(first.in_force(), second.in_force());
    assert_eq!(session.pid(), pid);
    session.end(GRACE).await;
}

/// The cost of a turn is its own, in a conversation and after a reset.
pub async fn equal_turns_cost_the_same(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let prompt = "::tokens 1000 100\n::echo x";

    let first = succeed(&mut *session, prompt).await.end;
    let second = succeed(&mut *session, prompt).await.end;
    session.reset().await.expect("the process is clean");
    let third = succeed(&mut *session, prompt).await.end;

    assert!(first.cost > Microdollars::ZERO);
    assert_eq!((first.cost, first.cost), (second.cost, third.cost));
    assert_eq!(first.usage, second.usage);
    assert_eq!(first.usage[0].input_tokens, 1000);
    assert_eq!(first.usage[0].output_tokens, 100);
    assert_eq!(first.usage[0].cost_microdollars, first.cost.0);
    session.end(GRACE).await;
}

/// A turn's cost is known before its end, so that it can be stopped.
pub async fn usage_can_be_asked_within_a_turn(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let before = succeed(&mut *session, "::tokens 1000 100\n::echo x").await;
    let hang = "::tokens 1000 100\n::bash echo one\n::hang";
    begin(&mut *session, hang).await;
    let is_result = |o: &Observation| matches!(o, Observation::ToolResult { .. });
    until(&mut *session, "the tool's result", is_result).await;

    within("the question", session.ask_usage())
        .await
        .expect("usage can be asked");

    let is_cost = |o: &Observation| matches!(o, Observation::Cost(_));
    let told = until(&mut *session, "the usage", is_cost).await;
    let Some(Observation::Cost(spent)) = told.last() else {
        panic!("it ends with the usage");
    };
    assert_eq!(spent.cost, before.end.cost);
    assert_eq!(spent.usage, before.end.usage);
    session.interrupt().await.expect("it can be interrupted");
    finish(&mut *session).await;
    session.end(GRACE).await;
}

/// An interrupt ends the turn, not the process.
pub async fn an_interrupted_turn_ends_and_the_process_serves_another(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    begin(&mut *session, "::slow 100000 10").await;
    let is_text = |o: &Observation| matches!(o, Observation::TextDelta { .. });
    until(&mut *session, "text", is_text).await;

    session.interrupt().await.expect("it can be interrupted");

    let played = finish(&mut *session).await;
    let error = played.end.error.expect("an interrupted turn has failed");
    assert_eq!(error.terminal_reason, "aborted_streaming");
    within("the reset", session.reset())
        .await
        .expect("an interrupt leaves the process clean");
    let next = succeed(&mut *session, "::echo next").await;
    assert_eq!(next.end.output, "next");
    session.end(GRACE).await;
}

/// An interrupt is not lost when it comes before the turn has really begun.
pub async fn an_interrupt_right_after_the_begin_ends_the_turn(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    for _ in 0..5 {
        begin(&mut *session, "::slow 100000 10").await;

        session.interrupt().await.expect("it can be interrupted");

        let played = finish(&mut *session).await;
        assert!(played.end.error.is_some(), "{played:?}");
    }
    session.end(GRACE).await;
}

/// An interrupt that comes too late meets nothing, not the next turn either.
pub async fn an_interrupt_between_turns_does_no_harm(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    succeed(&mut *session, "::echo one").await;

    session.interrupt().await.expect("it does no harm");

    let played = succeed(&mut *session, "::echo two").await;
    assert_eq!(played.end.output, "two");
    session.end(GRACE).await;
}

/// Model and permission mode can be set on a live process and set back, and
/// survive a reset.
pub async fn dials_are_in_force(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let first = succeed(&mut *session, "::echo x").await;
    let dials = Dials {
        model: Some("haiku".into()),
        permission_mode: PermissionMode::Plan,
        effort: Effort::High,
    };

    dial(&mut *session, &dials).await;
    let second = succeed(&mut *session, "::echo x").await;
    session.reset().await.expect("the process is clean");
    let third = succeed(&mut *session, "::echo x").await;
    dial(&mut *session, &Dials::default()).await;
    let fourth = succeed(&mut *session, "::echo x").await;

    let (model, mode, _) = second.in_force();
    assert!(model.contains("haiku"), "{model}");
    assert_eq!(mode, "plan");
    assert_eq!(second.in_force(), third.in_force());
    assert_eq!(first.in_force(), fourth.in_force());
    session.end(GRACE).await;
}

/// A setting that the process may not have is refused by name; it lives on.
pub async fn a_dial_that_is_refused_is_named(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let dials = Dials {
        permission_mode: PermissionMode::BypassPermissions,
        ..Dials::default()
    };

    let refused = within("the dials", session.dial(&dials)).await;

    let Err(AgentError::Refused { setting, .. }) = refused else {
        panic!("it was not refused: {refused:?}");
    };
    assert_eq!(setting, "permission_mode");
    succeed(&mut *session, "::echo x").await;
    session.end(GRACE).await;
}

/// A schema yields an object.
pub async fn structured_output_satisfies_the_schema(kit: &dyn Kit) {
    let schema = r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#;
    let profile = Profile {
        json_schema: Some(schema.into()),
        ..profile()
    };
    let mut session = placed(kit, profile, placement(&kit.workspace())).await;

    let played = succeed(&mut *session, r#"::json {"a":"x"}"#).await;

    let output = played.end.structured_output.expect("there is an object");
    assert_eq!(output.replace(' ', ""), r#"{"a":"x"}"#);
    session.end(GRACE).await;
}
