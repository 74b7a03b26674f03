use super::*;

const SKILL: &str = "---\n\
name: greet\n\
description: Greets somebody.\n\
license: Apache-2.0\n\
allowed-tools: Bash(git:*) Read\n\
metadata:\n\
\x20 author: somebody\n\
\x20 version: 1.0\n\
\x20 nested: {a: [1]}\n\
\x20 claudepool.arguments: |\n\
\x20   - name: who\n\
\x20     description: Whom.\n\
\x20     required: true\n\
\x20   - name: times\n\
\x20     default: 010\n\
---\n\
\n\
Greet {who} {times} times. `!`id`` $ARGUMENTS\n\
---\n\
Done.\n";

#[test]
fn a_skill_md_gives_its_arguments_under_the_standards_metadata() {
    let skill = skill_from_markdown(SKILL).expect("a good skill");
    assert_eq!(check_skill(&skill, ""), Ok(()));
    assert_eq!(
        (skill.name.as_str(), skill.description.as_str()),
        ("greet", "Greets somebody.")
    );
    assert_eq!(
        skill.prompt,
        "Greet {who} {times} times. `!`id`` $ARGUMENTS\n---\nDone."
    );
    assert_eq!(skill.arguments[0].name, "who");
    assert!(skill.arguments[0].required);
    assert_eq!(skill.arguments[1].default_value, "010", "as it is written");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_no_harm() {
    let text = format!("\u{feff}{}", SKILL.replace('\n', "\r\n"));
    let skill = skill_from_markdown(&text).expect("a good skill");
    assert_eq!(skill.arguments.len(), 2);
}

#[test]
fn json_says_the_same() {
    let json = r#"{"name": "greet", "description": "Greets \ud83d\ude00.", "prompt": "Hi {who}",
        "arguments": [{"name": "who", "required": true}]}"#;
    let skill = skill_from_json(json).expect("a good skill");
    assert_eq!(skill.description, "Greets \u{1f600}.");
    assert!(skill.arguments[0].required);
    assert!(skill_from_json(r#"{"name": "x", "shell": "id"}"#).is_err());
}

#[test]
fn what_is_no_skill_is_refused_with_a_reason() {
    let long = format!("---\n{}", "a: b\n".repeat(20_000));
    for (text, why) in [
        ("# Title", "front matter"),
        ("---\nname: x\n", "no end"),
        (long.as_str(), "longer"),
        ("---\nname: x\n---\nbody", "description"),
        ("---\nname: [x]\ndescription: d\n---\nbody", ""),
        ("---\nname: x\nname: y\ndescription: d\n---\nbody", ""),
        (
            "---\nname: x\ndescription: d\nmetadata:\n  claudepool.arguments: [a]\n---\nb",
            "must be a text",
        ),
        (
            "---\nname: x\ndescription: d\nmetadata:\n  claudepool.arguments: |\n    - nom: a\n---\nb",
            "claudepool.arguments",
        ),
    ] {
        let found = skill_from_markdown(text).expect_err(text);
        assert!(found.contains(why), "{found}");
        assert!(found.len() < 400, "{found}");
    }
}

#[test]
fn a_yaml_bomb_does_not_go_off() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n";
    let text = format!("---\n{bomb}name: x\ndescription: d\n---\nbody");
    assert!(skill_from_markdown(&text).is_err());
    let deep = format!(
        "---\nname: x\ndescription: d\nz: {}\n---\nb",
        "[".repeat(30_000)
    );
    assert!(skill_from_markdown(&deep).is_err());
}

#[test]
fn every_wrong_field_of_a_skill_is_named() {
    let argument = |name: &str| pb::Argument {
        name: name.into(),
        ..pb::Argument::default()
    };
    let mut required = argument("b");
    required.required = true;
    required.default_value = "x".into();
    let skill = pb::Skill {
        name: "../up".into(),
        description: String::new(),
        arguments: vec![
            argument("a"),
            argument("a"),
            argument("previous_output"),
            argument("error"),
            argument("a b"),
            required,
        ],
        prompt: " ".into(),
        ..pb::Skill::default()
    };
    let fields: Vec<String> = check_skill(&skill, "skill.")
        .expect_err("violations")
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(
        fields,
        [
            "skill.name",
            "skill.description",
            "skill.arguments[1].name",
            "skill.arguments[2].name",
            "skill.arguments[3].name",
            "skill.arguments[4].name",
            "skill.arguments[5].default_value",
            "skill.prompt",
        ]
    );
}

#[test]
fn a_skills_name_is_the_standards() {
    assert!(is_skill_name("a") && is_skill_name("pdf-2-text"));
    for bad in ["", "-a", "a-", "a--b", "A", "a_b", "a/b", "..", "ä"] {
        assert!(!is_skill_name(bad), "{bad}");
    }
    assert!(!is_skill_name(&"a".repeat(65)));
}
