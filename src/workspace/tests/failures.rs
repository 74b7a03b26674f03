use super::*;

use std::time::Instant;

#[tokio::test]
async fn a_hook_that_hangs_cannot_hold_the_slot() {
    let scene = Scene::new();
    // It will not go when asked, and its child holds the pipes.
    scene.hook(
        "post-checkout",
        "#!/bin/sh\ntrap '' TERM\nsleep 60 & wait\nsleep 60\n",
    );
    let server = scene.impatient().await;
    let before = scene.face();
    let began = Instant::now();

    let error = server.make(&scene.repo, Kind::Worktree, "hook").await;

    assert!(
        matches!(error, Err(WorkspaceError::TimedOut { .. })),
        "{error:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(scene.face(), before);
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn the_hooks_of_commits_do_not_stop_the_rescue_of_a_dirty_tree() {
    let scene = Scene::new();
    for hook in ["pre-commit", "commit-msg", "post-commit"] {
        scene.hook(hook, "#!/bin/sh\nsleep 60\nexit 1\n");
    }
    git(&scene.repo, &["config", "commit.gpgSign", "true"]);
    git(&scene.repo, &["config", "gpg.program", "/bin/false"]);
    let server = scene.impatient().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "hooks")
        .await
        .expect("made");
    scene.write(&work.dir, "dirty", "1");

    let kept = server.keep(work).await.expect("kept").expect("changed");

    assert_eq!(scene.show(&kept.r#ref, "dirty"), "1");
}

#[tokio::test]
async fn a_filter_that_hangs_costs_no_committed_work_and_leaves_the_rest_on_disk() {
    let scene = Scene::new();
    let server = scene.impatient().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "filter")
        .await
        .expect("made");
    let top = work.top.clone();
    commit_file(&work.dir, "committed", "1");
    git(&work.dir, &["config", "filter.slow.clean", "sleep 60"]);
    scene.write(&work.dir, ".gitattributes", "*.big filter=slow\n");
    scene.write(&work.dir, "x.big", "2");

    let error = server.keep(work).await.expect_err("not all is kept");

    assert!(!error.to_string().contains(top.to_str().expect("text")));
    let WorkspaceError::LeftOnDisk { dir, kept, cause } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*cause, WorkspaceError::TimedOut { .. }));
    assert_eq!(dir, top);
    assert_eq!(scene.show(&kept.expect("kept").r#ref, "committed"), "1");
    assert!(top.join("x.big").exists());

    git(&scene.repo, &["config", "--unset", "filter.slow.clean"]);
    let kept = server.recover().await;
    let [
        Kept {
            result: Ok(Some(kept)),
            ..
        },
    ] = &kept[..]
    else {
        panic!("{kept:?}");
    };
    assert_eq!(scene.show(&kept.r#ref, "x.big"), "2");
    assert!(!top.exists());
}

#[tokio::test]
async fn no_repository_an_empty_one_and_a_bare_one_are_told_apart() {
    let scene = Scene::empty();
    let server = scene.server().await;
    let make = async |dir: &Path| server.make(dir, Kind::Worktree, "none").await;
    let plain = scene.temp.path().join("plain");
    fs::create_dir(&plain).expect("made");
    git(scene.temp.path(), &["init", "-q", "--bare", "bare.git"]);
    let bare = scene.temp.path().join("bare.git");

    let found = make(&plain).await;
    assert!(
        matches!(found, Err(WorkspaceError::NotARepository)),
        "{found:?}"
    );
    assert_eq!(server.repository(&plain).await.expect("asked"), None);
    let found = make(&scene.repo).await;
    assert!(matches!(found, Err(WorkspaceError::Empty)), "{found:?}");
    let found = make(&bare).await;
    assert!(matches!(found, Err(WorkspaceError::Bare)), "{found:?}");
    let found = make(&scene.repo.join(".git")).await;
    assert!(matches!(found, Err(WorkspaceError::Bare)), "{found:?}");
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn a_branch_of_the_same_name_is_untouched() {
    let scene = Scene::new();
    let server = scene.server().await;
    git(&scene.repo, &["branch", "claudepool/taken"]);
    let before = git(&scene.repo, &["rev-parse", "claudepool/taken"]);
    for changed in [false, true] {
        let work = server
            .make(&scene.repo, Kind::Worktree, "taken")
            .await
            .expect("made");
        if changed {
            commit_file(&work.dir, "new", "1");
        }

        let kept = server.keep(work).await.expect("kept");

        assert_eq!(kept.is_some(), changed);
        let now = git(&scene.repo, &["rev-parse", "claudepool/taken"]);
        assert_eq!(now, before);
    }
}

#[tokio::test]
async fn a_branch_called_claudepool_is_in_nobodys_way() {
    let scene = Scene::new();
    git(&scene.repo, &["branch", "claudepool"]);
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "odd").await.expect("made");
        commit_file(&work.dir, "new", "1");
        let kept = server.keep(work).await.expect("kept").expect("changed");
        assert!(kept.r#ref.starts_with("refs/heads/claudepool-odd-"));
        assert_eq!(scene.show(&kept.r#ref, "new"), "1");
    }
}

#[tokio::test]
async fn without_git_the_error_says_so() {
    let scene = Scene::new();
    let server = scene
        .server_with(Options {
            program: "/nowhere/git".into(),
            ..Options::default()
        })
        .await;

    let error = server.make(&scene.repo, Kind::Worktree, "none").await;

    assert!(matches!(error, Err(WorkspaceError::NoGit)), "{error:?}");
}

#[tokio::test]
async fn a_lock_on_the_index_is_no_matter_and_one_on_the_ref_is_told() {
    let scene = Scene::new();
    let server = scene.impatient().await;
    scene.write(&scene.repo, ".git/index.lock", "");
    let work = server
        .make(&scene.repo, Kind::Worktree, "locked")
        .await
        .expect("made");
    scene.write(&work.dir, "dirty", "1");
    let git_dir = git(&work.dir, &["rev-parse", "--absolute-git-dir"]);
    fs::write(Path::new(git_dir.trim()).join("index.lock"), "").expect("written");
    let lock = ".git/refs/heads/claudepool/locked.lock";
    scene.write(&scene.repo, lock, "");

    let error = server.keep(work).await.expect_err("locked");

    let WorkspaceError::LeftOnDisk { cause, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*cause, WorkspaceError::Locked { .. }), "{cause:?}");
    fs::remove_file(scene.repo.join(lock)).expect("removed");
    let kept = server.recover().await;
    assert!(
        matches!(
            &kept[..],
            [Kept {
                result: Ok(Some(_)),
                ..
            }]
        ),
        "{kept:?}"
    );
}

#[tokio::test]
async fn a_repository_inside_with_work_of_its_own_is_left_on_disk() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "nested")
        .await
        .expect("made");
    let top = work.top.clone();
    let inner = work.dir.join("inner");
    git(
        &work.dir,
        &["clone", "-q", "--", &scene.repo.to_string_lossy(), "inner"],
    );
    git(&inner, &["config", "user.name", "Someone"]);
    git(&inner, &["config", "user.email", "someone@example.com"]);
    commit_file(&inner, "new", "1");

    let error = server.keep(work).await.expect_err("left");

    assert!(matches!(
        error,
        WorkspaceError::LeftOnDisk { kept: Some(_), .. }
    ));
    assert!(top.join("inner/new").exists());
    // Once it is somewhere else, there is nothing to lose.
    git(&inner, &["push", "-q", "origin", "HEAD:refs/heads/pushed"]);
    let kept = server.recover().await;
    assert!(
        matches!(
            &kept[..],
            [Kept {
                result: Ok(Some(_)),
                ..
            }]
        ),
        "{kept:?}"
    );
    assert!(!top.exists());
}

#[tokio::test]
async fn an_agent_that_removes_dot_git_loses_nothing() {
    let scene = Scene::new();
    // A repository above the folder of workspaces must not take its place.
    git(scene.temp.path(), &["init", "-q"]);
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "gone").await.expect("made");
        let top = work.top.clone();
        scene.write(&work.dir, "dirty", "1");
        match kind {
            Kind::Worktree => fs::remove_file(top.join(".git")).expect("removed"),
            Kind::Clone => fs::remove_dir_all(top.join(".git")).expect("removed"),
        }

        match (kind, server.keep(work).await) {
            (Kind::Worktree, Ok(Some(kept))) => {
                assert_eq!(scene.show(&kept.r#ref, "dirty"), "1");
            }
            (Kind::Clone, Err(WorkspaceError::LeftOnDisk { .. })) => {
                assert!(top.join("dirty").exists());
            }
            (kind, other) => panic!("{kind:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_agent_that_renames_its_branch_or_begins_a_new_history_loses_nothing() {
    let scene = Scene::new();
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        for (step, orphan) in [("renamed", false), ("orphan", true)] {
            let work = server.make(&scene.repo, kind, step).await.expect("made");
            commit_file(&work.dir, "before", "1");
            if orphan {
                git(&work.dir, &["checkout", "-q", "--orphan", "fresh"]);
            } else {
                git(&work.dir, &["branch", "-m", &format!("own-{kind:?}")]);
            }
            scene.write(&work.dir, "dirty", "2");

            let kept = server.keep(work).await.expect("kept").expect("changed");

            assert_eq!(scene.show(&kept.r#ref, "before"), "1");
            assert_eq!(scene.show(&kept.r#ref, "dirty"), "2");
        }
    }
}

#[tokio::test]
async fn read_only_directories_do_not_stop_the_removal() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "modes")
        .await
        .expect("made");
    scene.write(&work.dir, "cache/file", "1");
    fs::set_permissions(work.dir.join("cache"), fs::Permissions::from_mode(0o500)).expect("set");

    assert!(server.keep(work).await.expect("kept").is_some());

    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn names_that_are_no_part_of_a_ref_are_refused() {
    let scene = Scene::new();
    let server = scene.server().await;
    for name in ["", "-x", "a/b", "..", "a b", "x.lock", &"x".repeat(129)] {
        let error = server.make(&scene.repo, Kind::Worktree, name).await;
        assert!(matches!(error, Err(WorkspaceError::BadName)), "{name:?}");
    }
}

#[tokio::test]
async fn a_folder_of_workspaces_inside_the_repository_is_refused() {
    let scene = Scene::new();
    let base = scene.repo.join("state");
    let server = Workspaces::open(&base, "n", Options::default())
        .await
        .expect("opened");

    let error = server.make(&scene.repo, Kind::Worktree, "inside").await;

    assert!(
        matches!(error, Err(WorkspaceError::Surrounded)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_workspace_that_is_given_up_while_it_is_made_leaves_no_process_and_no_trace() {
    let scene = Scene::new();
    let pid_file = scene.temp.path().join("pid");
    let script = format!(
        "#!/bin/sh\necho $$ > '{0}.new'\nmv '{0}.new' '{0}'\nsleep 60\n",
        pid_file.display()
    );
    scene.hook("post-checkout", &script);
    let server = scene.server().await;
    let before = scene.face();
    let until_hook = async {
        while !pid_file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };

    tokio::select! {
        made = server.make(&scene.repo, Kind::Worktree, "given-up") => panic!("{made:?}"),
        () = until_hook => {}
    }
    let kept = server.recover().await;

    assert!(
        matches!(
            &kept[..],
            [Kept {
                result: Ok(None),
                ..
            }]
        ),
        "{kept:?}"
    );
    assert_eq!(scene.face(), before);
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
    let pid = fs::read_to_string(&pid_file).expect("there");
    let process = Path::new("/proc").join(pid.trim());
    let gone = async {
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the hook has ended");
}

#[tokio::test]
async fn hooks_see_nothing_of_the_servers_environment() {
    let scene = Scene::new();
    let file = scene.temp.path().join("env");
    scene.hook(
        "post-checkout",
        &format!("#!/bin/sh\nenv > '{}'\n", file.display()),
    );
    let server = scene.server().await;

    let work = server.make(&scene.repo, Kind::Worktree, "env").await;

    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let seen = fs::read_to_string(file).expect("the hook ran");
    assert!(!seen.contains("CARGO_MANIFEST_DIR"), "{seen}");
    assert!(seen.contains("GIT_TERMINAL_PROMPT=0"), "{seen}");
    drop(work);
}
