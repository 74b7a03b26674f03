//! Chains, workflows and skills from the command line.

use super::*;

#[test]
fn a_chain_prints_its_last_text_and_tells_of_each_step_beside_it() {
    let server = Server::start();

    let said = server.client(&["chain", "::echo draft", "::echo after {previous_output}"]);

    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "after draft\n"),
        "{}",
        said.err
    );
    assert!(said.err.contains("[1] step_1  succeeded"), "{}", said.err);
    assert!(said.err.contains("[2] step_2  succeeded"), "{}", said.err);
}

#[test]
fn the_steps_of_a_chain_can_come_from_a_file() {
    let server = Server::start();
    let file = server.home.path().join("steps");
    std::fs::write(&file, "::echo one\n---\n::echo {previous_output}, two\n").unwrap();

    let said = server.client(&["chain", "--file", file.to_str().unwrap()]);

    assert_eq!(said.out, "one, two\n", "{}", said.err);
}

#[test]
fn a_chain_that_fails_exits_1_and_tells_which_step_and_why() {
    let server = Server::start();

    let said = server.client(&["chain", "::error 400", "::echo never"]);

    assert_eq!(said.code, 1);
    assert!(said.err.contains("[1] step_1  failed"), "{}", said.err);
    assert!(said.err.contains("[2] step_2  skipped"), "{}", said.err);
}

#[test]
fn a_chain_in_json_is_its_progress_and_then_its_result() {
    let server = Server::start();

    let said = server.client(&["chain", "--json", "::echo x"]);

    let lines: Vec<Value> = said
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (result, progress) = lines.split_last().unwrap();
    assert_eq!(result["result"]["output"], "x", "{}", said.out);
    assert!(
        progress.iter().all(|line| line["totalSteps"] == 1),
        "{}",
        said.out
    );
}

#[test]
fn a_chain_left_to_itself_is_its_id_and_goes_on() {
    let server = Server::start();

    let said = server.client(&["chain", "--detach", "::echo x"]);

    let result = server.client(&["result", said.out.trim(), "--wait", "20s"]);
    assert_eq!(result.out, "x\n", "{}", result.err);
}

#[test]
fn a_skill_is_stored_listed_shown_run_and_deleted() {
    let server = Server::start();
    let put = server.client(&[
        "skill",
        "put",
        "greet",
        "::echo hello {who}, {how}",
        "--description",
        "Greets.",
        "--argument",
        "who",
        "--argument",
        "how=well",
    ]);
    assert_eq!(put.code, 0, "{}", put.err);

    let listed = server.client(&["skill"]).out;
    let shown = server.client(&["skill", "show", "greet"]).out;
    let run = server.client(&["skill", "run", "greet", "who=you"]);
    let wrong = server.client(&["skill", "run", "greet", "you"]);
    let missing = server.client(&["skill", "run", "greet"]);

    let row = listed.lines().find(|line| line.starts_with("greet "));
    let row = row.unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("who=… [how=well]"), "{row}");
    assert!(row.contains("stored"), "{row}");
    assert!(shown.contains("::echo hello {who}, {how}"), "{shown}");
    assert_eq!(run.out, "hello you, well\n", "{}", run.err);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
    assert_eq!(missing.code, 4, "{}", missing.err);
    assert_eq!(server.client(&["skill", "delete", "greet"]).code, 0);
    assert_eq!(server.client(&["skill", "show", "greet"]).code, 4);
}

#[test]
fn a_workflow_is_stored_listed_shown_run_and_deleted() {
    let server = Server::start();
    let put = server.client(&[
        "workflow",
        "put",
        "relay",
        "::echo {word}",
        "::echo {previous_output} again",
        "--description",
        "Says it twice.",
        "--argument",
        "word",
    ]);
    assert_eq!(put.code, 0, "{}", put.err);

    let listed = server.client(&["workflow", "list"]).out;
    let shown = server.client(&["workflow", "show", "relay"]).out;
    let run = server.client(&["workflow", "run", "relay", "word=once"]);

    assert!(listed.contains("relay"), "{listed}");
    assert!(shown.contains("[2] step_2"), "{shown}");
    assert_eq!(run.out, "once again\n", "{}", run.err);
    assert_eq!(server.client(&["workflow", "delete", "relay"]).code, 0);
    assert_eq!(
        server.client(&["workflow", "run", "relay", "word=x"]).code,
        4
    );
}

#[test]
fn files_of_catalog_folders_are_stored_as_they_stand() {
    let server = Server::start();
    let write = |name: &str, text: &str| {
        let file = server.home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let skill = write(
        "SKILL.md",
        "---\nname: shout\ndescription: Says it loud.\nmetadata:\n  claudepool.arguments: |\n    - name: what\n      required: true\n---\n::echo {what}!\n",
    );
    let workflow = write(
        "twice.workflow.yaml",
        "name: twice\ndescription: Says it twice.\narguments:\n  - name: what\n    required: true\nsteps:\n  - name: one\n    skill:\n      name: shout\n      arguments: {what: \"{what}\"}\n    settings: {permission_mode: plan}\n  - name: two\n    prompt: \"::echo {previous_output} {steps.one}\"\n",
    );

    let loaded = server.client(&["skill", "load", &skill]);
    assert_eq!(loaded.code, 0, "{}", loaded.err);
    let loaded = server.client(&["workflow", "load", &workflow]);
    assert_eq!(loaded.code, 0, "{}", loaded.err);

    let said = server.client(&["workflow", "run", "twice", "what=hey"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "hey! hey!\n"),
        "{}",
        said.err
    );
    let broken = write("broken.workflow.yaml", "steps: [");
    let refused = server.client(&["workflow", "load", &broken]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(
        refused.err.contains("broken.workflow.yaml"),
        "{}",
        refused.err
    );
}
