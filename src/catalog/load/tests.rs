use super::*;

fn skill(name: &str) -> String {
    format!("---\nname: {name}\ndescription: Does it.\n---\nDo it.\n")
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn names(warnings: &[Warning]) -> Vec<&str> {
    warnings
        .iter()
        .map(|w| w.path.file_name().and_then(|n| n.to_str()).unwrap_or("?"))
        .collect()
}

#[test]
fn a_folder_gives_skills_and_workflows_and_its_bad_files_are_warnings() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let workflow = r#"{"name": "w", "description": "d", "steps": [{"name": "a", "prompt": "p"}]}"#;
    write(root, "one/SKILL.md", &skill("one"));
    write(
        root,
        "two.json",
        r#"{"name": "two", "description": "d", "prompt": "p"}"#,
    );
    write(root, "w.workflow.json", workflow);
    write(root, "v.workflow.yaml", &workflow.replace("\"w\"", "\"v\""));
    write(root, "README.md", "no skill");
    write(root, "docs/notes.md", "no skill");
    write(root, "other/SKILL.md", &skill("one"));
    write(root, "bad/SKILL.md", "no front matter");
    write(root, "big.json", &" ".repeat(ENTRY_BYTES_MAX + 1));
    write(root, "latin.json", "");
    fs::write(root.join("latin.json"), [0xe4]).expect("a file");

    let (fixed, warnings) = load(&[root.to_owned(), root.join("absent")]);

    assert_eq!(fixed.skills.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(fixed.workflows.keys().collect::<Vec<_>>(), ["v", "w"]);
    assert_eq!(fixed.skills["one"].source(), CatalogSource::Folder);
    assert_eq!(
        names(&warnings),
        ["bad", "big.json", "latin.json", "other", "absent"]
    );
    assert!(warnings[3].message.contains("its place says"));
}

#[cfg(unix)]
#[test]
fn nothing_outside_its_folder_is_read() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().expect("a folder");
    write(outside.path(), "far/SKILL.md", &skill("far"));
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    symlink(outside.path().join("far"), root.join("far")).expect("a link");
    fs::create_dir(root.join("near")).expect("a folder");
    symlink(
        outside.path().join("far/SKILL.md"),
        root.join("near/SKILL.md"),
    )
    .expect("a link");
    symlink(root.join("loop"), root.join("loop")).expect("a link");
    write(root, "real/SKILL.md", &skill("alias"));
    symlink(root.join("real"), root.join("alias")).expect("a link inside");

    let (fixed, warnings) = load(&[root.to_owned()]);

    assert_eq!(fixed.skills.keys().collect::<Vec<_>>(), ["alias"]);
    assert_eq!(names(&warnings), ["far", "near", "real"]);
    assert!(warnings[0].message.contains("leads out"), "{warnings:?}");
}

#[test]
fn the_earlier_folder_goes_first_and_built_ins_come_last() {
    let (one, two) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    write(
        one.path(),
        "x/SKILL.md",
        &skill("x").replace("Do it", "First"),
    );
    write(
        two.path(),
        "x/SKILL.md",
        &skill("x").replace("Do it", "Second"),
    );
    write(two.path(), "code-review/SKILL.md", &skill("code-review"));

    let (loaded, warnings) = load(&[one.path().to_owned(), two.path().to_owned()]);
    let fixed = loaded.over(Fixed::builtin());

    assert_eq!(fixed.skills["x"].prompt, "First.");
    assert_eq!(names(&warnings), ["x"]);
    assert_eq!(fixed.skills["code-review"].prompt, "Do it.");
    assert_eq!(fixed.skills["write-tests"].source(), CatalogSource::Builtin);
}

#[test]
fn the_examples_of_the_guide_work() {
    let guide = include_str!("../../../docs/skills-and-workflows.md");
    let fenced = |language: &str| {
        let (_, rest) = guide
            .split_once(&format!("```{language}\n"))
            .expect("a fence");
        rest.split_once("```\n").expect("its end").0.to_owned()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, "one/code-style/SKILL.md", &fenced("markdown"));
    write(root, "one/style_and_fix.workflow.yaml", &fenced("yaml"));
    write(root, "two/code-style.json", &fenced("json"));

    for (folder, skills, workflows) in [("one", 1, 1), ("two", 1, 0)] {
        let (fixed, warnings) = load(&[root.join(folder)]);
        assert_eq!(warnings, []);
        assert_eq!(
            (fixed.skills.len(), fixed.workflows.len()),
            (skills, workflows)
        );
        assert!(fixed.skills["code-style"].arguments[0].required);
    }
}
