//! Repositories of other shapes than the usual.

use super::*;

async fn keeps_work(scene: &Scene, repo: &Path) {
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let idle = server.make(repo, kind, "idle").await.expect("made");
        assert_eq!(server.keep(idle).await.expect("kept"), None);
        let work = server.make(repo, kind, "work").await.expect("made");
        git(&work.dir, &["config", "user.name", "Someone"]);
        git(&work.dir, &["config", "user.email", "someone@example.com"]);
        commit_file(&work.dir, "new", "1");
        scene.write(&work.dir, "dirty", "2");

        let kept = server.keep(work).await.expect("kept").expect("changed");

        git(repo, &["show", &format!("{}:new", kept.r#ref)]);
        git(repo, &["show", &format!("{}:dirty", kept.r#ref)]);
        git(repo, &["fsck", "--connectivity-only"]);
        let changed = git(repo, &["diff", "--name-only", "HEAD", &kept.r#ref]);
        assert_eq!(changed, "dirty\nnew\n");
        assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
    }
}

#[tokio::test]
async fn a_shallow_repository_keeps_work() {
    let scene = Scene::new();
    commit_file(&scene.repo, "second", "2");
    let url = format!("file://{}", scene.repo.display());
    git(
        scene.temp.path(),
        &["clone", "-q", "--depth=1", &url, "shallow"],
    );
    keeps_work(&scene, &scene.temp.path().join("shallow")).await;
}

#[tokio::test]
async fn a_sparse_repository_keeps_work_and_the_files_that_are_not_there() {
    let scene = Scene::new();
    commit_file(&scene.repo, "second", "2");
    scene.write(&scene.repo, "other/file", "3");
    git(&scene.repo, &["add", "."]);
    git(&scene.repo, &["commit", "-qm", "other"]);
    git(&scene.repo, &["sparse-checkout", "set", "sub"]);
    assert!(!scene.repo.join("other").exists());
    keeps_work(&scene, &scene.repo).await;
}

#[tokio::test]
async fn a_repository_of_the_longer_hash_keeps_work() {
    let scene = Scene::empty();
    let repo = scene.temp.path().join("sha256");
    git(
        scene.temp.path(),
        &["init", "-q", "--object-format=sha256", "sha256"],
    );
    git(&repo, &["config", "user.name", "Someone"]);
    git(&repo, &["config", "user.email", "someone@example.com"]);
    commit_file(&repo, "first", "1");
    keeps_work(&scene, &repo).await;
}

#[tokio::test]
async fn a_worktree_of_the_users_own_and_a_detached_head_keep_work() {
    let scene = Scene::new();
    let own = scene.temp.path().join("own");
    git(
        &scene.repo,
        &["worktree", "add", "-q", "--detach", &own.to_string_lossy()],
    );
    commit_file(&own, "only-here", "1");
    keeps_work(&scene, &own).await;
    assert!(own.join("only-here").exists());
}

#[tokio::test]
async fn a_submodule_that_was_only_looked_at_is_no_obstacle_and_work_in_it_is_not_lost() {
    let scene = Scene::new();
    let library = scene.temp.path().join("library");
    git(scene.temp.path(), &["clone", "-q", "repo", "library"]);
    let allow = ["-c", "protocol.file.allow=always"];
    let submodule = |dir: &Path, args: &[&str]| {
        git(dir, &[&allow[..], &["submodule", "-q"], args].concat());
    };
    submodule(&scene.repo, &["add", &library.to_string_lossy(), "lib"]);
    git(&scene.repo, &["commit", "-qm", "library"]);
    let server = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let work = server
            .make(&scene.repo, kind, "looked")
            .await
            .expect("made");
        submodule(&work.dir, &["update", "--init"]);
        assert!(work.dir.join("lib/README").exists());
        assert_eq!(server.keep(work).await.expect("kept"), None);

        let work = server
            .make(&scene.repo, kind, "worked")
            .await
            .expect("made");
        submodule(&work.dir, &["update", "--init"]);
        scene.write(&work.dir, "lib/new", "1");
        let top = work.top.clone();
        let error = server.keep(work).await.expect_err("left");
        assert!(
            matches!(error, WorkspaceError::LeftOnDisk { .. }),
            "{error:?}"
        );
        assert!(top.join("lib/new").exists());
    }
}
