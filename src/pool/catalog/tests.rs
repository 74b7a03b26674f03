use std::fs;

use super::*;
use crate::agent::scripted::Scripted;
use crate::clock::Clock;
use crate::pool::Options;

async fn pool(options: Options) -> Pool {
    Pool::builder(Scripted::default())
        .options(options)
        .working_dir("/tmp")
        .clock(Clock::tokio())
        .build()
        .await
        .expect("built")
}

fn skill(name: &str) -> Skill {
    Skill {
        name: name.into(),
        description: "Does it.".into(),
        prompt: "Do {what}.".into(),
        arguments: vec![pb::Argument {
            name: "what".into(),
            default_value: "it".into(),
            ..pb::Argument::default()
        }],
        ..Skill::default()
    }
}

fn workflow(name: &str, skill: &str) -> Workflow {
    Workflow {
        name: name.into(),
        description: "Does it.".into(),
        steps: vec![pb::ChainStep {
            name: "one".into(),
            action: Some(pb::chain_step::Action::Skill(pb::SkillCall {
                name: skill.into(),
                ..pb::SkillCall::default()
            })),
            ..pb::ChainStep::default()
        }],
        ..Workflow::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_skill_hides_a_folders_which_hides_the_built_in_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("code-review");
    fs::create_dir(&own).expect("a folder");
    let text = "---\nname: code-review\ndescription: Ours.\n---\nReview.\n";
    fs::write(own.join("SKILL.md"), text).expect("a file");
    let pool = pool(Options {
        catalog_dirs: vec![folder.path().to_owned()],
        ..Options::default()
    })
    .await;
    let source = async || {
        let skill = pool.get_skill("code-review").await.expect("there");
        skill.source()
    };

    assert_eq!(source().await, CatalogSource::Folder);
    let stored = pool.put_skill(skill("code-review")).await.expect("put");
    assert_eq!(stored.source(), CatalogSource::Stored);
    assert!(stored.update_time.is_some());
    assert_eq!(pool.get_skill("code-review").await.expect("there"), stored);
    pool.delete_skill("code-review").await.expect("deleted");
    assert_eq!(source().await, CatalogSource::Folder);
    let again = pool.delete_skill("code-review").await;
    assert!(matches!(again, Err(Error::NotFound(Missing::Skill))));
}

#[tokio::test(start_paused = true)]
async fn pages_go_by_name_over_stored_and_fixed_without_gap_or_double() {
    let pool = pool(Options::default()).await;
    let built_in = pool.list_skills(0, "").await.expect("a page").0.len();
    for name in ["a", "code-review", "m", "zz"] {
        pool.put_skill(skill(name)).await.expect("put");
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = pool.list_skills(2, &token).await.expect("a page");
        assert!((1..=2).contains(&page.len()));
        names.extend(page.into_iter().map(|s| (s.name.clone(), s.source())));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), built_in + 3);
    assert!(names.is_sorted_by(|a, b| a.0 < b.0));
    assert!(names.contains(&("code-review".to_owned(), CatalogSource::Stored)));
    assert!(names.contains(&("write-tests".to_owned(), CatalogSource::Builtin)));
}

#[tokio::test(start_paused = true)]
async fn a_page_of_large_skills_ends_early() {
    let pool = pool(Options::default()).await;
    for i in 0..20 {
        let mut large = skill(&format!("a{i:02}"));
        large.prompt = "x".repeat(256 * 1024);
        pool.put_skill(large).await.expect("put");
    }
    let (page, next) = pool.list_skills(1000, "").await.expect("a page");
    assert_eq!(page.len(), 7);
    let (page, _) = pool.list_skills(1000, &next).await.expect("a page");
    assert_eq!(page[0].name, "a07");
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_on_in_its_own_list_only() {
    let pool = pool(Options::default()).await;
    let (_, token) = pool.list_skills(1, "").await.expect("a page");
    let other = pool.list_workflows(1, &token).await;
    assert!(matches!(other, Err(Error::PageTokenMismatch)));
    for bad in ["x", "zz", "é1", "01ff"] {
        let refused = pool.list_skills(1, bad).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_put_is_named() {
    let pool = pool(Options::default()).await;
    let mut bad = skill("Bad Name");
    bad.prompt = String::new();
    let Err(Error::Invalid(found)) = pool.put_skill(bad).await else {
        panic!("violations expected");
    };
    let fields: Vec<&str> = found.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["skill.name", "skill.prompt"]);
    let refused = pool.put_workflow(workflow("w", "")).await;
    let Err(Error::Invalid(found)) = refused else {
        panic!("violations expected");
    };
    assert_eq!(found[0].field, "workflow.steps[0].skill.name");
}

#[tokio::test(start_paused = true)]
async fn a_workflow_uses_the_skills_of_the_moment() {
    let pool = pool(Options::default()).await;
    pool.put_workflow(workflow("w", "later"))
        .await
        .expect("put");
    let none = Arguments::new();
    let Err(Error::Invalid(found)) = pool.expand_workflow("w", &none).await else {
        panic!("violations expected");
    };
    assert_eq!(found[0].field, "name");
    assert!(found[0].message.contains("steps[0].skill.name"));

    pool.put_skill(skill("later")).await.expect("put");
    let spec = pool.expand_workflow("w", &none).await.expect("a chain");
    let prompt = pb::chain_step::Action::Prompt("Do it.".into());
    assert_eq!(spec.steps[0].action, Some(prompt));
    let absent = pool.expand_workflow("absent", &none).await;
    assert!(matches!(absent, Err(Error::NotFound(Missing::Workflow))));
}

#[tokio::test(start_paused = true)]
async fn chains_of_one_call_share_the_room_for_prompts() {
    let pool = pool(Options::default()).await;
    let mut room = None;
    let steps = workflow("w", "code-review").steps;
    let Err(Error::Invalid(found)) = pool
        .expand_chain(&steps, "chains[0].steps", &mut room)
        .await
    else {
        panic!("violations expected");
    };
    assert_eq!(found[0].field, "chains[0].steps[0].skill.arguments[target]");
    let steps = workflow("w", "run-checks").steps;
    pool.expand_chain(&steps, "steps", &mut room)
        .await
        .expect("a chain");
    assert!(room.is_some_and(|left| left < CHAIN_BYTES_MAX));
    room = Some(10);
    assert!(pool.expand_chain(&steps, "steps", &mut room).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_holds_more_than_is_known_is_shown_and_not_carried_out() {
    let pool = pool(Options::default()).await;
    pool.put_workflow(workflow("w", "later"))
        .await
        .expect("put");
    pool.put_skill(skill("later")).await.expect("put");
    let none = Arguments::new();
    pool.expand_workflow("w", &none)
        .await
        .expect("all is known");
    let store = &pool.inner.store;
    let add_field = async |kind, name| {
        let entry = store.catalog_entry(kind, name).await.expect("read");
        let mut entry = entry.expect("it is there");
        // Field 999, a text, as a later version may have it.
        let more = [0xba, 0x3e, 3, b'n', b'e', b'w'];
        entry.bytes = [&entry.bytes[..], &more].concat().into();
        store.put_catalog(kind, entry, 9).await.expect("put");
    };

    add_field(CatalogKind::Skill, "later").await;
    let refused = pool.expand_workflow("w", &none).await;
    assert!(matches!(refused, Err(Error::NewerServerNeeded)));
    pool.put_skill(skill("later")).await.expect("put again");
    pool.expand_workflow("w", &none)
        .await
        .expect("all is known");
    add_field(CatalogKind::Workflow, "w").await;
    let refused = pool.expand_workflow("w", &none).await;
    assert!(matches!(refused, Err(Error::NewerServerNeeded)));

    assert_eq!(pool.get_workflow("w").await.expect("shown").name, "w");
    pool.delete_workflow("w").await.expect("deleted");
}
