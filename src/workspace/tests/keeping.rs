use super::*;

#[tokio::test]
async fn a_committed_file_is_reachable_by_the_ref_when_the_worktree_is_gone() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "t1-1")
        .await
        .expect("made");
    let top = work.top.clone();
    commit_file(&work.dir, "new", "text\n");

    let kept = server.keep(work).await.expect("kept").expect("changed");

    assert_eq!(kept.r#ref, "refs/heads/claudepool/t1-1");
    assert!(kept.diffstat.contains("new | 1 +"), "{}", kept.diffstat);
    assert!(!top.exists());
    git(&scene.repo, &["worktree", "prune"]);
    git(&scene.repo, &["gc", "-q", "--prune=now"]);
    assert_eq!(scene.show(&kept.r#ref, "new"), "text\n");
    assert_eq!(
        git(&scene.repo, &["rev-parse", &kept.r#ref]).trim(),
        kept.commit
    );
    assert_eq!(
        git(&scene.repo, &["worktree", "list"]).lines().count(),
        1,
        "only the user's own"
    );
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn a_dirty_tree_is_committed_to_the_ref() {
    let scene = Scene::new();
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "dirty").await.expect("made");
        commit_file(&work.dir, "committed", "1");
        scene.write(&work.dir, "README", "changed\n");
        scene.write(&work.dir, "untracked/file", "2");
        scene.write(&work.dir, "x.ignored", "3");
        fs::remove_file(work.dir.join("sub/inner/file")).expect("removed");

        let kept = server.keep(work).await.expect("kept").expect("changed");

        assert_eq!(scene.show(&kept.r#ref, "README"), "changed\n");
        assert_eq!(scene.show(&kept.r#ref, "untracked/file"), "2");
        assert_eq!(scene.show(&kept.r#ref, "committed"), "1");
        let files = git(&scene.repo, &["ls-tree", "-r", "--name-only", &kept.r#ref]);
        assert!(!files.contains("ignored\n.") && !files.contains("x.ignored"));
        assert!(!files.contains("sub/inner/file"));
        let message = git(&scene.repo, &["log", "-1", "--format=%an %s", &kept.r#ref]);
        assert_eq!(message.trim(), "Someone Keep the uncommitted work of dirty");
    }
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn nothing_changed_leaves_nothing_behind() {
    let scene = Scene::new();
    let server = scene.server().await;
    let before = scene.face();
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "idle").await.expect("made");
        scene.write(&work.dir, "x.ignored", "dropped");

        assert_eq!(server.keep(work).await.expect("kept"), None);

        assert_eq!(scene.face(), before);
        assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
    }
}

#[tokio::test]
async fn commits_on_a_detached_head_and_on_other_branches_survive() {
    let scene = Scene::new();
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "heads").await.expect("made");
        commit_file(&work.dir, "ours", &format!("{kind:?}"));
        git(
            &work.dir,
            &["checkout", "-q", "-b", &format!("side-{kind:?}"), "HEAD^"],
        );
        commit_file(&work.dir, "side", &format!("{kind:?}"));
        git(&work.dir, &["checkout", "-q", "--detach", "HEAD^"]);
        commit_file(&work.dir, "detached", &format!("{kind:?}"));

        let kept = server.keep(work).await.expect("kept").expect("changed");

        assert_eq!(scene.show(&kept.r#ref, "detached"), format!("{kind:?}"));
        // The same files of the other kind do not count: the texts differ.
        let everything = git(&scene.repo, &["log", "--all", "-p", "--format="]);
        for file in ["ours", "side", "detached"] {
            let change = format!("+++ b/{file}\n@@ -0,0 +1 @@\n+{kind:?}");
            assert!(
                everything.contains(&change),
                "{file} of {kind:?}: {everything}"
            );
        }
        let refs = scene.refs();
        let side = match kind {
            Kind::Worktree => "refs/heads/side-Worktree",
            Kind::Clone => "/heads/side-Clone",
        };
        assert!(refs.contains(side), "{refs}");
    }
}

#[tokio::test]
async fn a_clone_changes_nothing_in_the_original_but_the_refs() {
    let scene = Scene::new();
    git(
        &scene.repo,
        &["remote", "add", "origin", "../up \"stream\".git"],
    );
    let server = scene.server().await;
    let before = scene.face();
    let work = server
        .make(&scene.repo, Kind::Clone, "cloned")
        .await
        .expect("made");
    let url = git(&work.dir, &["remote", "get-url", "origin"]);
    assert!(url.trim().ends_with("repo/../up \"stream\".git"), "{url}");
    git(&work.dir, &["config", "some.setting", "1"]);
    git(&work.dir, &["tag", "-a", "v1", "-m", "one"]);
    for stash in ["first", "second"] {
        scene.write(&work.dir, "README", stash);
        git(&work.dir, &["stash", "-q"]);
    }
    commit_file(&work.dir, "new", "1");
    let push = Command::new("git")
        .args(["push", "-q", "source", "HEAD:refs/heads/main"])
        .current_dir(&work.dir)
        .output()
        .expect("run");
    assert!(!push.status.success(), "the original is for fetching only");

    let kept = server.keep(work).await.expect("kept").expect("changed");

    assert_eq!(scene.show(&kept.r#ref, "new"), "1");
    let below = "refs/claudepool/cloned";
    assert_eq!(scene.show(&format!("{below}/stash/0"), "README"), "second");
    assert_eq!(scene.show(&format!("{below}/stash/1"), "README"), "first");
    assert_eq!(scene.show(&format!("{below}/tags/v1"), "README"), "hello\n");
    for name in scene
        .refs()
        .lines()
        .filter_map(|line| line.split('\t').nth(1))
    {
        if name != "refs/heads/main" {
            git(&scene.repo, &["update-ref", "-d", name]);
        }
    }
    assert_eq!(scene.face(), before);
}

#[tokio::test]
async fn the_agent_works_in_the_same_sub_directory() {
    let scene = Scene::new();
    let server = scene.server().await;
    let link = scene.temp.path().join("link");
    std::os::unix::fs::symlink(&scene.repo, &link).expect("linked");
    fs::create_dir_all(scene.repo.join("untracked dir")).expect("made");
    for kind in [Kind::Worktree, Kind::Clone] {
        for sub in ["sub/inner", "untracked dir", ""] {
            let work = server
                .make(&link.join(sub), kind, "sub")
                .await
                .expect("made");
            assert_eq!(work.dir, work.top.join(sub).canonicalize().expect("there"));
            assert!(!work.dir.starts_with(&scene.repo));
            if sub == "sub/inner" {
                assert!(work.dir.join("file").exists());
            }
            assert_eq!(server.keep(work).await.expect("kept"), None);
        }
    }
    assert_eq!(
        server.repository(&link.join("sub")).await.expect("asked"),
        Some(scene.repo.clone())
    );
}

#[tokio::test]
async fn odd_file_names_survive() {
    let scene = Scene::new();
    let server = scene.server().await;
    let names = ["-rf", "a b", "line\nbreak", "--", ":(top)x", "\"q\"", "ü"];
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server.make(&scene.repo, kind, "odd").await.expect("made");
        for name in names {
            scene.write(&work.dir, name, name);
        }

        let kept = server.keep(work).await.expect("kept").expect("changed");

        for name in names {
            assert_eq!(scene.show(&kept.r#ref, name), name);
        }
    }
}

#[tokio::test]
async fn odd_repository_names_are_no_matter() {
    let scene = Scene::new();
    for name in ["-dash", "a b", "line\nbreak"] {
        let repo = scene.temp.path().join(name);
        git(
            scene.temp.path(),
            &["clone", "-q", "--", "repo", &repo.to_string_lossy()],
        );
        let server = scene.server().await;
        for kind in [Kind::Worktree, Kind::Clone] {
            let work = server.make(&repo, kind, "odd").await.expect("made");
            commit_file_as_somebody(&work.dir);
            let kept = server.keep(work).await.expect("kept").expect("changed");
            git(&repo, &["show", &format!("{}:new", kept.r#ref)]);
        }
    }
}

fn commit_file_as_somebody(dir: &Path) {
    git(dir, &["config", "user.name", "Somebody"]);
    git(dir, &["config", "user.email", "somebody@example.com"]);
    commit_file(dir, "new", "1");
}

#[tokio::test]
async fn a_later_workspace_can_start_from_the_work_of_an_earlier_one() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "one")
        .await
        .expect("made");
    commit_file(&work.dir, "new", "1");
    let kept = server.keep(work).await.expect("kept").expect("changed");

    let work = server
        .make_from(&scene.repo, Kind::Clone, "two", &kept.r#ref)
        .await
        .expect("made");

    assert!(work.dir.join("new").exists());
    assert_eq!(work.start, kept.commit);
    assert_eq!(server.keep(work).await.expect("kept"), None);
}

#[tokio::test]
async fn a_long_diffstat_is_cut_at_a_line() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "many")
        .await
        .expect("made");
    for number in 0..600 {
        scene.write(&work.dir, &format!("a-long-name-of-a-file-{number}"), "1\n");
    }

    let kept = server.keep(work).await.expect("kept").expect("changed");

    assert!(kept.diffstat.len() <= 16 << 10 && kept.diffstat.len() > 15 << 10);
    assert!(kept.diffstat.ends_with("+\n"));
}
