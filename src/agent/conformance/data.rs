//! Prompts are data, whatever they look like.

use super::*;
use crate::agent::AgentError;

/// A first "/" is part of the text, not a command of the agent.
pub async fn a_command_in_a_prompt_is_text(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let first = succeed(&mut *session, "::echo remember-4410").await;

    for command in ["/clear", "/model haiku", "/config", "/exit", "/compact"] {
        let prompt = format!("{command}\n::echo after {command}");
        let played = succeed(&mut *session, &prompt).await;
        assert_eq!(played.end.output, format!("after {command}"));
        assert_eq!(played.end.session_id, first.end.session_id, "{command}");
    }

    begin(&mut *session, "/clear").await;
    let bare = finish(&mut *session).await;
    assert_eq!(bare.end.session_id, first.end.session_id);
    assert_eq!(bare.in_force(), first.in_force());
    let shown = kit.shown(&mut *session).await;
    assert!(shown.contains("remember-4410"), "it was not cleared");
    within("the reset", session.reset())
        .await
        .expect("text leaves the process clean");
    session.end(GRACE).await;
}

/// A path after "@" attaches no file, wherever it stands.
pub async fn a_path_in_a_prompt_reads_no_file(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let secret = kit.workspace().join("secret.txt");
    std::fs::write(&secret, "content-6627").expect("the workspace can be written");
    let path = secret.display();

    for prompt in [
        format!("@{path}\n::echo x"),
        format!("look at @{path} please\n::echo x"),
        format!("::echo x\nlook at @{path}"),
        format!("::echo x\n@\"{path}\""),
        "@secret.txt\n::echo x".to_owned(),
    ] {
        succeed(&mut *session, &prompt).await;
        let shown = kit.shown(&mut *session).await;
        assert!(shown.contains("secret.txt"), "{prompt} did not arrive");
        assert!(!shown.contains("content-6627"), "{prompt}: {shown}");
    }
    session.end(GRACE).await;
}

/// Characters that break lines or strings elsewhere arrive as they are.
pub async fn odd_characters_arrive(kit: &dyn Kit) {
    let mut session = ready(kit).await;

    for odd in [
        "a\0b",
        "a\u{2028}b",
        "\u{FEFF}b",
        "a\u{1b}[2Jb",
        "\"}\\n{\"",
    ] {
        let played = succeed(&mut *session, &format!("::echo <{odd}>")).await;
        assert_eq!(played.end.output, format!("<{odd}>"));
    }
    session.end(GRACE).await;
}

/// A prompt far longer than a pipe arrives whole.
pub async fn a_long_prompt_arrives(kit: &dyn Kit) {
    let mut session = ready(kit).await;
    let filler = "lorem ipsum ".repeat(100_000);

    let prompt = format!("{filler}\n::echo arrived\n{filler}");
    let played = succeed(&mut *session, &prompt).await;

    assert_eq!(played.end.output, "arrived");
    session.end(GRACE).await;
}

/// Nothing is no prompt.
pub async fn an_empty_prompt_is_refused(kit: &dyn Kit) {
    let mut session = ready(kit).await;

    let refused = session
        .begin(Turn {
            prompt: String::new(),
            slash_commands: false,
        })
        .await;

    let Err(AgentError::Refused { setting, .. }) = refused else {
        panic!("it was not refused: {refused:?}");
    };
    assert_eq!(setting, "prompt");
    succeed(&mut *session, "::echo x").await;
    session.end(GRACE).await;
}
