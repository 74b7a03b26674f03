use super::*;

#[tokio::test]
async fn two_servers_with_the_same_name_do_not_meet() {
    let scene = Scene::new();
    let (one, two) = (scene.server().await, scene.server().await);
    for kind in [Kind::Worktree, Kind::Clone] {
        let first = one.make(&scene.repo, kind, "same").await.expect("made");
        let second = two.make(&scene.repo, kind, "same").await.expect("made");
        commit_file(&first.dir, "first", "1");
        commit_file(&second.dir, "second", "2");

        let first = one.keep(first).await.expect("kept").expect("changed");
        let second = two.keep(second).await.expect("kept").expect("changed");

        assert_ne!(first.r#ref, second.r#ref);
        assert_eq!(scene.show(&first.r#ref, "first"), "1");
        assert_eq!(scene.show(&second.r#ref, "second"), "2");
    }
}

#[tokio::test]
async fn a_crash_is_followed_by_recovery_of_all_work() {
    let scene = Scene::new();
    let crashed = scene.server().await;
    for kind in [Kind::Worktree, Kind::Clone] {
        let name = format!("lost-{kind:?}");
        let work = crashed.make(&scene.repo, kind, &name).await.expect("made");
        commit_file(&work.dir, "committed", "1");
        scene.write(&work.dir, "dirty", "2");
    }
    let idle = crashed
        .make(&scene.repo, Kind::Worktree, "idle")
        .await
        .expect("made");
    drop((idle, crashed));

    let kept = scene.server().await.recover().await;

    assert_eq!(kept.len(), 3);
    for kept in kept {
        let result = kept.result.expect("kept");
        if kept.name == "idle" {
            assert_eq!(result, None);
            continue;
        }
        let result = result.expect("changed");
        assert_eq!(scene.show(&result.r#ref, "committed"), "1");
        assert_eq!(scene.show(&result.r#ref, "dirty"), "2");
    }
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
    assert!(scene.server().await.recover().await.is_empty());
}

#[tokio::test]
async fn recovery_leaves_the_workspaces_of_live_servers_alone() {
    let scene = Scene::new();
    let alive = scene.server().await;
    let work = alive
        .make(&scene.repo, Kind::Worktree, "live")
        .await
        .expect("made");
    scene.write(&work.dir, "dirty", "1");

    assert!(scene.server().await.recover().await.is_empty());
    assert!(alive.recover().await.is_empty());

    assert!(work.dir.join("dirty").exists());
    assert!(alive.keep(work).await.expect("kept").is_some());
}

#[tokio::test]
async fn a_live_server_recovers_what_it_dropped_itself() {
    let scene = Scene::new();
    let server = scene.server().await;
    let work = server
        .make(&scene.repo, Kind::Worktree, "dropped")
        .await
        .expect("made");
    scene.write(&work.dir, "dirty", "1");
    drop(work);

    let kept = server.recover().await;

    let [kept] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert!(matches!(&kept.result, Ok(Some(_))), "{kept:?}");
}

#[tokio::test]
async fn a_recovery_that_was_cut_off_is_finished_by_the_next() {
    let scene = Scene::new();
    let crashed = scene.server().await;
    let work = crashed
        .make(&scene.repo, Kind::Worktree, "half")
        .await
        .expect("made");
    commit_file(&work.dir, "committed", "1");
    // As if the removal had come this far.
    fs::remove_dir_all(&work.top).expect("removed");
    drop((work, crashed));

    let kept = scene.server().await.recover().await;

    let [kept] = &kept[..] else {
        panic!("{kept:?}")
    };
    let result = kept.result.as_ref().expect("kept").as_ref();
    assert_eq!(
        scene.show(&result.expect("changed").r#ref, "committed"),
        "1"
    );
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
}

#[tokio::test]
async fn two_servers_that_recover_at_once_settle_each_workspace_once() {
    let scene = Scene::new();
    let crashed = scene.server().await;
    for number in 0..4 {
        let name = format!("n{number}");
        let work = crashed
            .make(&scene.repo, Kind::Worktree, &name)
            .await
            .expect("made");
        scene.write(&work.dir, "dirty", "1");
    }
    drop(crashed);
    let (one, two) = (scene.server().await, scene.server().await);

    let (mut kept, others) = tokio::join!(one.recover(), two.recover());

    kept.extend(others);
    // Whoever came second may have passed over all of them, or met those left.
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(kept.iter().all(|kept| matches!(kept.result, Ok(Some(_)))));
    let refs = scene.refs();
    assert_eq!(refs.matches("refs/heads/claudepool/").count(), 4, "{refs}");
}

#[tokio::test]
async fn what_is_not_ours_in_the_folder_is_left_alone() {
    let scene = Scene::new();
    let server = scene.server().await;
    scene.write(&scene.base(), "somebody/file", "1");
    scene.write(&scene.base(), "broken.workspace", "{");

    assert!(server.recover().await.is_empty());

    assert_eq!(scene.leftovers(), ["broken.workspace", "somebody"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workspaces_of_one_repository_come_and_go_at_once() {
    let scene = std::sync::Arc::new(Scene::new());
    let mut slots = tokio::task::JoinSet::new();
    for slot in 0..8 {
        let scene = scene.clone();
        // Two slots to a server.
        let server = scene.server().await;
        for half in 0..2 {
            let (scene, server) = (scene.clone(), server.clone());
            slots.spawn(async move {
                for round in 0..4 {
                    let name = format!("n{slot}-{half}-{round}");
                    let work = server
                        .make(&scene.repo, Kind::Worktree, &name)
                        .await
                        .expect("made");
                    if round % 2 == 0 {
                        scene.write(&work.dir, &name, "1");
                    }
                    let kept = server.keep(work).await.expect("kept");
                    assert_eq!(kept.is_some(), round % 2 == 0);
                }
            });
        }
    }
    while let Some(ended) = slots.join_next().await {
        ended.expect("it holds");
    }
    assert!(scene.leftovers().is_empty(), "{:?}", scene.leftovers());
    let refs = scene.refs();
    assert_eq!(refs.matches("refs/heads/claudepool/").count(), 32, "{refs}");
}
